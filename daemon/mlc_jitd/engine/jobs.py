"""From a job's admission to its end: the queue is asked, a thread does the work, the broker hears how it ended."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import CompileError, CompileOutOfMemoryError, JitError
from mlc_jitd import broker as b
from mlc_jitd.compiling import LOADING, TOOLCHAIN_CHANGED, Order, Report
from mlc_jitd.engine.ledger import JobState
from mlc_jitd.fellows import ELSEWHERE, Away
from mlc_jitd.headway import Headway
from mlc_jitd.locked import LOCKED
from mlc_jitd.logs import facts
from mlc_jitd.reports import cannot, error_of, internal, place, trouble_of
from mlc_jitd.schedule.jobs import Accepted, Demand
from mlc_jitd.work import Built, Work

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from mlc_jitd.engine.inbox import Inbox
    from mlc_jitd.engine.ledger import Asking, Ledger
    from mlc_jitd.engine.onlookers import Onlooker, Onlookers
    from mlc_jitd.gauge import Gauge
    from mlc_jitd.likeness import Likeness
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.schedule.queue import Queue
    from mlc_jitd.toolchains.base import Stage

logger = logging.getLogger(__name__)

MOST_ASIDE = 64
"""Jobs that may wait for other hosts and processes beside those that run; each is a thread."""


class Jobs:
    """Jobs from admission to end. In the engine's thread; each job's own work is in a thread of the job.

    Args:
        work: Compiles.
        ledger: What is on its way.
        queue: Orders and admits.
        inbox: Brings what a job's thread says back into the engine's thread.
        gauge: What the host has.
        likeness: Remembers what compiles took.
        onlookers: Told of each step of a job, and of each library that was compiled here.
        replaced: Told of each key that has a library, or another one than before.
        look_up_again: Looks a request up anew; whether that was begun.
        do: Carries out the broker's instructions.
        counters: What happened how often.
    """

    def __init__(
        self,
        work: Work,
        ledger: Ledger,
        queue: Queue,
        inbox: Inbox,
        *,
        gauge: Gauge,
        likeness: Likeness,
        onlookers: Onlookers,
        replaced: Callable[[str], None],
        look_up_again: Callable[[b.Asker], bool],
        do: Callable[[list[b.Instruction]], None],
        counters: Counter[str],
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._broker = ledger.broker
        self._jobs = ledger.jobs
        self._queue = queue
        self._inbox = inbox
        self._gauge = gauge
        self._likeness = likeness
        self._onlookers = onlookers
        self._replaced = replaced
        self._look_up_again = look_up_again
        self._do = do
        self._counters = counters
        self._aside: set[str] = set()
        """Jobs that wait for other hosts and processes, and gave their cores back."""

    # --- the broker's instructions ----------------------------------------------------------------------------------

    def enqueue(self, instruction: b.Enqueue) -> None:
        """Put a job into the queue; one that the queue refuses has failed."""
        asking = self._ledger.asking[instruction.asker]
        assert asking.identity is not None, "a job for a request that was not looked up"
        capacity = self._gauge.now()
        wanted = asking.request.acceleration != "off"
        apart = self._work.compiler.acceleration_for(asking.identity, wanted=wanted) is not None
        like = self._likeness.of(asking.identity, apart=apart, cores=self._queue.cores(capacity))
        headway = Headway(dict(like.stages), like.seconds)
        state = self._jobs[instruction.key] = JobState(asking.identity, asking, time.monotonic(), like, headway)
        self._tell_onlookers_of(instruction, state)
        demand = demand_of(instruction.key, state, interactive=instruction.interactive)
        answer = self._queue.submit(demand, capacity)
        if isinstance(answer, Accepted):
            self.admit()
            return
        self._refuse(instruction.key, cannot(answer))

    def _tell_onlookers_of(self, instruction: b.Enqueue, state: JobState) -> None:
        """A job is new, and whoever waits for it already: several do where it comes after one that was cancelled."""
        key = instruction.key
        reason, background = self._broker.jobs[key].reason, not instruction.interactive
        self._onlookers.tell(lambda each: each.enqueued(key, state, reason, background=background))
        for asker in self._broker.waiters(key):
            asking = self._ledger.asking[asker]
            self._onlookers.tell(functools.partial(_tell_joined, key, asker, asking))

    def _refuse(self, key: str, trouble: b.Trouble) -> None:
        """The queue does not take a job, or gives it up."""
        self._onlookers.tell(lambda each: each.finished(key, error_of(trouble, key)))
        self._do(self._broker.failed(key, trouble, now=time.monotonic(), remember=False))
        self._ledger.settle(key)

    def promote(self, key: str) -> None:
        """Somebody waits for a job that was nobody's before."""
        self._queue.promote(key)
        self._jobs[key].stop.promote()

    def withdraw(self, key: str) -> None:
        """Take a job out of the queue."""
        self._queue.withdraw(key)
        self._onlookers.tell(lambda each: each.finished(key, None))
        self._ledger.settle(key)

    def kill(self, key: str) -> None:
        """End a running job that was cancelled."""
        self._jobs[key].stop.stop("cancelled")

    # --- admission --------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Start whoever may, and tell the others their place."""
        now = time.monotonic()
        snapshot = self._queue.snapshot(now)
        if not snapshot.waiting:
            return
        admission = self._queue.admit(self._gauge.now(), now)
        for refused in admission.refused:
            self._refuse(refused.job, cannot(refused))
        for grant in admission.granted:
            self._start(grant)
        for waiting in self._queue.snapshot(now).waiting:
            like = waiting.demand.estimate
            left = None if like is None or waiting.estimate is None else float(round(waiting.estimate + like))
            at = now - waiting.demand.submitted
            self._do(self._broker.advanced(waiting.demand.job, b.Step("queued", place(waiting), left=left, at=at)))

    def _start(self, grant: Grant) -> None:
        key = grant.job
        if grant.short:
            logger.warning("%s starts although the host lacks %s for it", key[:12], " and ".join(grant.short))
        job = self._broker.jobs[key]
        redo, background = job.redo, not job.interactive  # as they are now: others may have joined
        self._broker.started(key)
        self._onlookers.tell(lambda each: each.started(key, grant))
        state = self._jobs[key]
        total = self._gauge.now().memory_total

        def report(stage: Stage) -> None:
            self._inbox.post(self._advanced, key, stage, time.monotonic())

        def run() -> None:
            ended: Built | Away | JitError | None = carry_out(
                self._work, state, grant, report, redo=redo, background=background, memory_total=total
            )
            if isinstance(ended, Away):
                self._inbox.post(self._step_aside, key)
                ended = wait_for(ended, state, report)
            if ended is None:
                self._inbox.post(self._again, key)
            elif isinstance(ended, Built):
                self._inbox.post(self._built, key, ended)
            else:
                self._inbox.post(self._failed, key, ended)

        try:
            threading.Thread(target=run, name=f"job-{key[:8]}", daemon=True).start()
        except RuntimeError as error:  # no thread to be had: a job like any other that failed
            logger.exception("a compile could not be started")
            self._inbox.post(self._failed, key, internal(error))

    # --- what a job's thread tells ----------------------------------------------------------------------------------

    def _advanced(self, key: str, stage: Stage, now: float) -> None:
        """A compile has come to a stage. How far it is says nothing while it has not begun."""
        state = self._jobs.get(key)
        if state is None:
            return
        if stage.name not in (LOCKED, LOADING, ELSEWHERE):
            state.headway.enter(stage.name, now)
        self._onlookers.tell(lambda each: each.advanced(key, stage, now))
        self._tell_place(key, state, stage.name, stage.detail, now)

    def _tell_place(self, key: str, state: JobState, stage: str, detail: str, now: float) -> None:
        where = state.headway.at(now)
        step = b.Step(stage, detail, where.fraction, where.left, now - state.submitted)
        self._do(self._broker.advanced(key, step))

    def _built(self, key: str, built: Built) -> None:
        state = self._jobs[key]
        self._ledger.entries[key] = built.entry
        self._replaced(key)
        self._queue.finished(key, time.monotonic())
        record = built.entry.manifest.compile
        if built.compiled:
            self._counters["compiles"] += 1
            self._likeness.learn(built.entry.manifest)
            model = state.asking.request.model_path
            about = facts(event="compiled", key=key, seconds=record.seconds, model=model)
            logger.info("compiled %s in %.1f s for %s", key[:12], record.seconds, model, extra=about)
            self._onlookers.tell(lambda each: each.published(state.identity, built.entry))
        self._onlookers.tell(lambda each: each.finished(key, built))
        self._do(self._broker.finished(key, compiled=built.compiled))
        self._ended(key)

    def _step_aside(self, key: str) -> None:
        """Somebody else compiles it, so other jobs may have the cores; not all at once: each that waits is a thread."""
        if len(self._aside) < MOST_ASIDE:
            self._aside.add(key)
            self._queue.finished(key, time.monotonic())
            self.admit()

    def _again(self, key: str) -> None:
        """It is not waited for any more: the next step takes cores."""
        state = self._jobs[key]
        self._aside.discard(key)
        self._queue.finished(key, time.monotonic())
        self._requeue(key, "nobody else compiles it", tried=False)
        if self._jobs.get(key) is state:
            self._queue.again(demand_of(key, state, interactive=self._broker.jobs[key].interactive))
        self.admit()

    def _requeue(self, key: str, why: str, *, tried: bool) -> None:
        self._onlookers.tell(lambda each: each.requeued(key, why, tried=tried))
        self._do(self._broker.requeued(key, b.Step("queued", why)))

    def release_aside(self) -> None:
        """The daemon drains: who only waits for others is handed back at once, like who is queued."""
        for key in self._aside:
            self._jobs[key].stop.stop("draining")

    def _failed(self, key: str, error: JitError) -> None:
        state = self._jobs[key]
        now = time.monotonic()
        if isinstance(error, CompileOutOfMemoryError) and not state.retried and self._queue.retry(key, now):
            state.retried = True
            state.headway.restart()
            logger.warning("%s ran out of memory; it will be tried once more, alone", key[:12])
            self._requeue(key, "ran out of memory: once more, alone", tried=True)
            self.admit()
            return
        self._queue.finished(key, now)
        self._counters["failures"] += 1
        about = facts(event="failed", key=key, kind=error.kind, reason=error.reason, log=error.log_path)
        logger.warning("no library for %s: %s", key[:12], error.message, extra=about)
        self._onlookers.tell(lambda each: each.finished(key, error))
        if error.reason == TOOLCHAIN_CHANGED:
            self._ask_again(key, error)
        remember = isinstance(error, CompileError) and error.reason != TOOLCHAIN_CHANGED
        self._do(self._broker.failed(key, trouble_of(error), now=now, remember=remember))
        self._ended(key)

    def _ask_again(self, key: str, error: JitError) -> None:
        """The compiler was replaced while it ran: who waited is looked up anew, once, and gets the new compiler's."""
        for asker in self._broker.waiters(key):
            if self._look_up_again(asker):
                self._do(self._broker.left(asker))
        logger.info("asking again: %s", error.message)

    def _ended(self, key: str) -> None:
        self._aside.discard(key)
        self._ledger.settle(key)
        self.admit()

    # --- time -------------------------------------------------------------------------------------------------------

    def tell(self, now: float) -> None:
        """Say how far the running jobs are."""
        for key, job in list(self._broker.jobs.items()):
            if job.state == "running" and job.step is not None:
                self._tell_place(key, self._jobs[key], job.step.stage, job.step.detail, now)

    def end(self) -> None:
        """End what runs: the daemon's time to drain is over."""
        for state in self._jobs.values():
            state.stop.stop("draining")


def _tell_joined(key: str, asker: b.Asker, asking: Asking, each: Onlooker) -> None:
    each.joined(key, asker, asking)


def carry_out(
    work: Work,
    state: JobState,
    grant: Grant,
    report: Report,
    *,
    redo: bool,
    background: bool,
    memory_total: int,
) -> Built | Away | JitError:
    """Do one admitted job; blocks until it is over, and raises nothing.

    Args:
        work: Compiles and publishes.
        state: The job.
        grant: What it may use.
        report: Told each stage, from this thread.
        redo: An entry that is there already is no answer.
        background: Nobody waits for it.
        memory_total: Bytes that compiles may use on this host, 0 for unknown. Who takes more is ended before the host
            suffers.
    """
    request = state.asking.request
    order = Order(
        identity=state.identity,
        model_path=request.model_path,
        device=request.device,
        redo=redo,
        asked_at=state.asking.asked_at,
        cores=grant.cores,
        memory=min(filter(None, (grant.memory if state.retried else 0, memory_total)), default=None),
        background=background,
        accelerated=request.acceleration != "off" and not state.retried,
    )
    try:
        return work.build(order, report, state.stop)
    except JitError as error:
        return error
    except Exception as error:
        logger.exception("a compile could not be carried out")
        return internal(error)


def wait_for(away: Away, state: JobState, report: Report) -> Built | JitError | None:
    """Wait for another host's or process's compile; ``None`` if the job is to be tried again. Raises nothing."""
    try:
        came = away.wait(report, state.stop)
    except JitError as error:
        return error
    except Exception as error:
        logger.exception("another's compile could not be waited for")
        return internal(error)
    return None if came is None else Built(came.entry, compiled=came.compiled)


def demand_of(key: str, state: JobState, *, interactive: bool) -> Demand:
    """A job as the queue sees it."""
    peer = state.asking.peer
    return Demand(
        job=key,
        client=str(peer.pid) if peer.pid else peer.identity.hex(),
        user=peer.uid,
        submitted=state.submitted,
        interactive=interactive,
        memory=state.like.memory,
        estimate=state.like.seconds,
    )


def job_row(job: b.Job, state: JobState, now: float) -> m.JobReport:
    """A job as a status shows it."""
    step = job.step
    return m.JobReport(
        key=job.key,
        state=job.state,
        model=state.asking.request.model_path,
        device=state.asking.request.device,
        stage=step.stage if step else "",
        detail=step.detail if step else "",
        fraction=step.fraction if step else None,
        left=step.left if step else None,
        elapsed=now - state.submitted,
        waiters=len(job.waiters),
    )
