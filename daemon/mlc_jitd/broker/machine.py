"""The state machine: events in, instructions out. The package says what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from .instructions import (
    Asker,
    Deliver,
    Enqueue,
    Instruction,
    Kill,
    Policy,
    Promote,
    Refuse,
    Source,
    Step,
    Tell,
    Trouble,
    Withdraw,
)
from .jobs import LIVE, STAGES_KEPT, Job, JobState
from .refusals import cancelled, disabled, draining, not_cached, remembered


@dataclass(frozen=True, slots=True)
class _Failed:
    trouble: Trouble
    until: float


class Broker:
    """Decides; see the module's docstring.

    Args:
        backoff: Seconds for which a failed key answers with its failure instead of compiling again.
    """

    def __init__(self, *, backoff: float = 5.0) -> None:
        self.backoff = backoff
        self.draining = False
        self.jobs: dict[str, Job] = {}
        self._next: dict[str, Job] = {}
        """By key: what is to be enqueued when the job that is being cancelled has ended."""
        self._failures: dict[str, _Failed] = {}
        self._waits: dict[Asker, str] = {}
        self.story: list[tuple[str, str]] = []
        """Transitions as (key, what), newest last, for tests and ``validate``; bounded."""

    # --- events -----------------------------------------------------------------------------------------------------

    def asked(
        self,
        asker: Asker,
        *,
        key: str,
        policy: Policy,
        hit: bool,
        reason: str,
        now: float,
        interactive: bool = True,
        why: str = "",
    ) -> list[Instruction]:
        """A request was looked up.

        Args:
            asker: Who asks; must not be waiting already.
            key: The request's cache key.
            policy: What the asker allows.
            hit: Whether the store has a verified entry.
            reason: Why there is none: ``absent``, ``damaged``, ...
            now: Monotonic seconds.
            interactive: Whether somebody waits at a screen or a serving process waits to start.
            why: The reason in words, without a stop.
        """
        assert asker not in self._waits, "an asker waits for one thing at a time"
        if policy == "OFF":
            return [Refuse(asker, disabled(), key)]
        if hit and policy != "REDO":
            return [Deliver(asker, key, "hit")]
        if policy == "READONLY":
            return [Refuse(asker, not_cached(reason, why), key)]
        job = self.jobs.get(key)
        if job is not None and job.state in LIVE:
            return self._join(job, asker, redo=policy == "REDO", interactive=interactive)
        if self.draining:
            return [Refuse(asker, draining(), key)]
        redo = policy == "REDO"
        why = "redo" if redo and hit else reason
        if job is not None:
            return self._queue_behind(job, asker, redo=redo, reason=why, interactive=interactive, now=now)
        failed = self._failures.get(key)
        if failed is not None and policy == "ON" and now < failed.until:
            return [Refuse(asker, remembered(failed.trouble, failed.until - now), key)]
        self._failures.pop(key, None)
        job = Job(key, "queued", redo, why, interactive, now)
        self._wait(job, asker, leads=True)
        return self._enqueue(job)

    def left(self, asker: Asker, *, cancel: bool = False) -> list[Instruction]:
        """An asker no longer waits: it said so, or its connection is gone. An unknown asker is nothing to do."""
        key = self._waits.pop(asker, None)
        if key is None:
            return []
        following = self._next.get(key)
        if following is not None and asker in following.waiters:
            del following.waiters[asker]
            if not following.waiters:
                del self._next[key]
            return []
        job = self.jobs[key]
        del job.waiters[asker]
        if job.waiters:
            return []
        if job.state == "queued":
            self._end(key, "withdrawn")
            return [Withdraw(key)]
        if cancel and job.state == "running":
            return self._cancel(job)
        return []

    def cancelled(self, key: str) -> list[Instruction]:
        """Somebody asked by name that the job of the key ends, and the one that would follow it."""
        job = self.jobs.get(key)
        if job is None:
            return []
        if job.state == "cancelling":
            return self._refuse_next(key, cancelled())
        if job.state == "queued":
            out: list[Instruction] = [Withdraw(key)]
            out += self._refuse_all(job, cancelled())
            self._end(key, "cancelled")
            return out
        return self._cancel(job)

    def started(self, key: str) -> None:
        """The queue admitted the job and its worker runs."""
        job = self.jobs[key]
        assert job.state == "queued", job.state
        job.state = "running"
        self._tell("running", key)

    def requeued(self, key: str, step: Step) -> list[Instruction]:
        """The job waits again: its first try ran out of memory, and the second gets the host for itself."""
        job = self.jobs[key]
        assert job.state in ("running", "cancelling"), job.state
        if job.state == "running" and job.waiters and not self.draining:
            job.state = "queued"
            job.step = None
            job.history.clear()
            self._tell("requeued", key)
            return self.advanced(key, step)
        out: list[Instruction] = [Withdraw(key)]
        out += self._refuse_all(job, cancelled() if job.state == "cancelling" else draining())
        self._end(key, "dropped")
        return out + self._follow(key)

    def advanced(self, key: str, step: Step) -> list[Instruction]:
        """The job's own progress, or its place in the queue."""
        job = self.jobs.get(key)
        if job is None or job.step == step:
            return []
        job.record(step)
        return [Tell(tuple(job.waiters), key, step)] if job.waiters else []

    def finished(self, key: str, *, compiled: bool = True) -> list[Instruction]:
        """The job's entry is published (``compiled`` false: another process had published it meanwhile)."""
        job = self.jobs[key]
        out: list[Instruction] = []
        for asker, leads in job.waiters.items():
            source: Source = "compiled" if leads and compiled else "joined"
            out.append(Deliver(asker, key, source, job.reason))
            del self._waits[asker]
        job.waiters.clear()
        self._end(key, "finished")
        # The job was faster than its cancellation: what it made is as new as what the next one would make.
        following = self._next.pop(key, None)
        if following is not None:
            for asker in following.waiters:
                out.append(Deliver(asker, key, "joined", following.reason))
                del self._waits[asker]
        return out

    def failed(self, key: str, trouble: Trouble, *, now: float, remember: bool = True) -> list[Instruction]:
        """The job ended without an entry; everyone who waited is told, and nothing is written down."""
        job = self.jobs[key]
        out = self._refuse_all(job, trouble)
        if remember and job.state != "cancelling":
            self._failures[key] = _Failed(trouble, now + self.backoff)
        self._forget_old_failures(now)
        self._end(key, "failed")
        return out + self._follow(key)

    def drain(self) -> list[Instruction]:
        """No new jobs from now on; queued ones are handed back to their askers, running ones go on."""
        self.draining = True
        out: list[Instruction] = []
        for job in [job for job in self.jobs.values() if job.state == "queued"]:
            out.append(Withdraw(job.key))
            out += self._refuse_all(job, draining())
            self._end(job.key, "drained")
        for key in list(self._next):
            out += self._refuse_next(key, draining())
        return out

    # --- questions --------------------------------------------------------------------------------------------------

    def waiters(self, key: str) -> list[Asker]:
        """Who waits for the job of the key, in the order in which they came; not who waits for the one after it."""
        job = self.jobs.get(key)
        return [] if job is None else list(job.waiters)

    def waits(self, asker: Asker) -> bool:
        """Whether the asker waits for a job."""
        return asker in self._waits

    def match(self, prefix: str) -> list[str]:
        """The keys of jobs that begin with the prefix."""
        return [key for key in self.jobs if key.startswith(prefix)]

    def validate(self) -> None:
        """Assert the invariants; tests call it after every step."""
        for key, job in self.jobs.items():
            assert job.key == key
            assert job.waiters or job.state != "queued", "a queued job nobody waits for"
            assert sum(job.waiters.values()) <= 1, "two leaders"
            assert job.state in get_args(JobState), job.state
            assert len(job.history) <= STAGES_KEPT
            assert (job.step and job.step.stage) == next(reversed(job.history), None), "a history that ends elsewhere"
        for key, job in self._next.items():
            assert job.key == key
            assert job.waiters, "a next job nobody waits for"
            assert self.jobs[key].state == "cancelling", "a next job without one that is being cancelled"
            assert not self.draining, "a next job in a daemon that starts none"
        every = [*self.jobs.values(), *self._next.values()]
        for job in every:
            for asker in job.waiters:
                assert self._waits.get(asker) == job.key, "a waiter the index does not know"
        waiting = sum(len(job.waiters) for job in every)
        assert waiting == len(self._waits), "an index entry without a waiter"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _enqueue(self, job: Job) -> list[Instruction]:
        assert job.key not in self.jobs, "one job per key"
        self.jobs[job.key] = job
        self._tell("queued", job.key)
        return [Enqueue(job.key, job.interactive, job.redo, job.lead())]

    def _queue_behind(
        self, job: Job, asker: Asker, *, redo: bool, reason: str, interactive: bool, now: float
    ) -> list[Instruction]:
        """Wait for the job after the one that is being cancelled."""
        following = self._next.get(job.key)
        if following is not None:
            return self._join(following, asker, redo=redo, interactive=interactive)
        following = self._next[job.key] = Job(job.key, "queued", redo, reason, interactive, now)
        step = Step("queued", "behind a compile of this configuration that is being cancelled")
        following.record(step)
        self._wait(following, asker, leads=True)
        return [Tell((asker,), job.key, step)]

    def _follow(self, key: str) -> list[Instruction]:
        """Enqueue what waited for the key's cancelled job to end."""
        following = self._next.pop(key, None)
        return [] if following is None else self._enqueue(following)

    def _refuse_next(self, key: str, trouble: Trouble) -> list[Instruction]:
        following = self._next.pop(key, None)
        return [] if following is None else self._refuse_all(following, trouble)

    def _join(self, job: Job, asker: Asker, *, redo: bool, interactive: bool) -> list[Instruction]:
        self._wait(job, asker, leads=False)
        out: list[Instruction] = []
        if redo and job.state == "queued":
            job.redo = True
        if interactive and not job.interactive:
            job.interactive = True
            if self.jobs.get(job.key) is job:
                out.append(Promote(job.key))
        out += [Tell((asker,), job.key, step) for step in job.steps()]
        return out

    def _wait(self, job: Job, asker: Asker, *, leads: bool) -> None:
        self._waits[asker] = job.key
        job.waiters[asker] = leads

    def _cancel(self, job: Job) -> list[Instruction]:
        job.state = "cancelling"
        self._tell("cancelling", job.key)
        return [Kill(job.key)]

    def _refuse_all(self, job: Job, trouble: Trouble) -> list[Instruction]:
        out: list[Instruction] = [Refuse(asker, trouble, job.key) for asker in job.waiters]
        for asker in job.waiters:
            del self._waits[asker]
        job.waiters.clear()
        return out

    def _end(self, key: str, what: str) -> None:
        del self.jobs[key]
        self._tell(what, key)

    def _tell(self, what: str, key: str) -> None:
        self.story.append((key, what))
        del self.story[:-1000]

    def _forget_old_failures(self, now: float) -> None:
        for key in [key for key, failed in self._failures.items() if failed.until <= now]:
            del self._failures[key]
