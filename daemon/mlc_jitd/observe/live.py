"""How the daemon is at this moment: the answer to ``top``, and what a status says of the host.

No file of the cache is read for it.
What does not belong here: how it is shown (``mlc_jit.cli``), and what happened before (``recorder``).
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import sys
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jitd.engine import Onlooker
from mlc_jitd.observe.viewer import Viewer
from mlc_jitd.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.engine import Engine, Facts
    from mlc_jitd.gauge import Gauge
    from mlc_jitd.identity import Identity
    from mlc_jitd.lending import Lending
    from mlc_jitd.observe.record import Answer, JobRecord
    from mlc_jitd.observe.recorder import Recorder
    from mlc_jitd.peers import Peer
    from mlc_jitd.schedule.queue import Queue
    from mlc_jitd.store import Entry

MOST_RECENT = 100
"""Outcomes in one answer, whatever is asked for."""

ENDED_BADLY = ("failed", "cancelled")
WITHOUT_A_JOB = ("hit", "stopgap", "refused")
"""Answers that no job stands for."""


class Live(Onlooker):
    """See the module's docstring.

    Args:
        engine: Has the facts.
        queue: Knows what one compile gets.
        gauge: What the host has.
        recorder: What happened lately.
        lending: What was handed out.
    """

    def __init__(self, engine: Engine, queue: Queue, gauge: Gauge, recorder: Recorder, lending: Lending) -> None:
        self._engine = engine
        self._queue = queue
        self._gauge = gauge
        self._recorder = recorder
        self._lending = lending
        self._tally = Tally()

    def published(self, identity: Identity, entry: Entry) -> None:  # noqa: ARG002 - an onlooker's
        """A library was compiled here."""
        self._tally.add("compile_milliseconds", round(entry.manifest.compile.seconds * 1000))

    def asked(self, peer: Peer, message: m.TopRequest) -> None:
        """Answer ``top``."""

        def answer(facts: Facts) -> None:
            self._engine.reply(peer, self.top(message, facts, Viewer.of(peer)))

        self._engine.facts(answer)

    def top(self, message: m.TopRequest, facts: Facts, viewer: Viewer) -> m.Top:
        """The answer to ``top``, as far as it may be told."""
        outcomes = recent(self._recorder.last_jobs(), self._recorder.last_answers(), viewer)
        most = max(0, min(message.recent, MOST_RECENT))
        overview = self._engine.overview.welcome(m.Hello())
        return m.Top(
            id=message.id,
            version=overview.version,
            pid=overview.pid,
            uptime=facts.uptime,
            home=overview.home,
            draining=facts.draining,
            slots=facts.slots,
            jobs=facts.jobs,
            counters={**facts.counters, **self.counters()},
            host=self.host(facts.waiting),
            recent=tuple(heapq.nlargest(most, outcomes, key=lambda each: each.at)),
        )

    def complete(self, message: m.Message) -> m.Message:
        """A status with what this room knows."""
        if not isinstance(message, m.Status):
            return message
        host = self.host(self._engine.waiting())
        return dataclasses.replace(message, host=host, counters={**message.counters, **self.counters()})

    def counters(self) -> dict[str, int]:
        """What was handed out, and what compiles took."""
        return self._lending.tally.read() | self._tally.read()

    def host(self, waiting: int) -> m.HostReport:
        """What compiles may use, and what the daemon itself takes."""
        capacity, times = self._gauge.glance(), os.times()
        return m.HostReport(
            cores=capacity.cores,
            memory_total=capacity.memory_total,
            memory_available=capacity.memory_available,
            gpus=len(capacity.devices),
            cores_per_job=self._queue.slots.cores,
            resident=resident(),
            processor=times.user + times.system,
            waiting=waiting,
        )


def resident() -> int:
    """Bytes of memory of this process."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - every second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import psutil  # noqa: PLC0415 - only where there is no /proc

    return int(psutil.Process().memory_info().rss)


def recent(jobs: list[JobRecord], answers: list[Answer], viewer: Viewer) -> Iterator[m.OutcomeReport]:
    """Jobs that ended, and answers that no job stands for, in no order.

    That others' jobs ended is told, since slots and queue are shared; who they were and what went wrong is not.
    """
    bad = {job.subject.key for job in jobs if job.ending.outcome in ENDED_BADLY}
    for job in jobs:
        subject, own = job.subject, any(viewer.knows(wait.who) for wait in job.waiters) or viewer.administers
        first = next((wait.who for wait in job.waiters if viewer.knows(wait.who)), None)
        yield m.OutcomeReport(
            at=job.asked + job.seconds,
            what=job.ending.outcome,
            key=subject.key,
            model=subject.model,
            device=subject.device,
            seconds=job.seconds,
            detail=(job.ending.cause if own else "") or subject.why or subject.reason,
            waiters=len(job.waiters) + job.more,
            program=first.program if first else "",
            pid=first.pid if first else 0,
        )
    for answer in answers:
        if not viewer.knows(answer.who):
            continue
        if answer.source in WITHOUT_A_JOB and not (answer.source == "refused" and answer.key in bad):
            yield m.OutcomeReport(
                at=answer.at,
                what=answer.source,
                key=answer.key,
                model=answer.model,
                device=answer.device,
                seconds=answer.seconds,
                detail=answer.cause or answer.reason,
                program=answer.who.program,
                pid=answer.who.pid,
            )
