"""The status and the listing: the engine's facts of this moment, completed in a thread with what the folder holds."""

from __future__ import annotations

import dataclasses
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError
from mlc_jitd.engine.jobs import job_row
from mlc_jitd.reports import internal

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

    from mlc_jitd.engine.ledger import Ledger
    from mlc_jitd.engine.outbox import Outbox
    from mlc_jitd.overview import Overview
    from mlc_jitd.peers import Peer
    from mlc_jitd.schedule.queue import Queue

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The engine at one moment; no file was read for it. ``waiting``: requests without an answer."""

    uptime: float
    draining: bool
    slots: int
    waiting: int
    jobs: tuple[m.JobReport, ...]
    counters: dict[str, int]


class Views:
    """Reports for who looks after a daemon.

    Args:
        overview: What the cache folder says.
        ledger: What is on its way.
        queue: How many slots there are.
        outbox: Takes the reports.
        counters: What happened how often, all of it; called in the engine's thread.
    """

    def __init__(
        self,
        overview: Overview,
        ledger: Ledger,
        queue: Queue,
        outbox: Outbox,
        *,
        counters: Callable[[], Counter[str]],
    ) -> None:
        self._overview = overview
        self._ledger = ledger
        self._queue = queue
        self._outbox = outbox
        self._counters = counters
        self._begun = time.monotonic()
        # Apart from the look-ups: who looks after a daemon must not wait behind interpreters that are slow to answer.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="overview")
        self.cache_report: Callable[[], m.CacheReport | None] = lambda: None
        """What bounds the cache, for the status; may read files."""
        self.addenda: list[Callable[[m.Message], m.Message]] = []
        """What other rooms add to a status or a listing; called in a thread."""

    def facts(self) -> Facts:
        """What there is to say at once; in the engine's thread."""
        now = time.monotonic()
        broker, states = self._ledger.broker, self._ledger.jobs
        return Facts(
            uptime=now - self._begun,
            draining=broker.draining,
            slots=self._queue.slots.jobs,
            waiting=len(self._ledger.asking),
            jobs=tuple(job_row(job, states[job.key], now) for job in broker.jobs.values()),
            counters=dict(self._counters()),
        )

    def status(self, peer: Peer, id_: int) -> None:
        """Answer with the status; in the engine's thread."""
        facts = self.facts()
        status = self._overview.status(
            id_,
            uptime=facts.uptime,
            draining=facts.draining,
            slots=facts.slots,
            jobs=facts.jobs,
            counters=facts.counters,
        )
        self._report(peer, id_, lambda: iter((dataclasses.replace(status(), cache=self.cache_report()),)))

    def list(self, peer: Peer, id_: int) -> None:
        """Answer with the listing."""
        self._report(peer, id_, lambda: self._overview.listing(id_))

    def _report(self, peer: Peer, id_: int, make: Callable[[], Iterator[m.Message]]) -> None:
        """Answer with what reads the cache folder; where that can't be read, with the reason."""

        def task() -> None:
            try:
                for part in make():
                    self._outbox.send(peer.identity, self._completed(part))
            except JitError as error:
                self._outbox.send(peer.identity, m.Failure.of(error, id=id_))
            except Exception as error:
                logger.exception("a report could not be made")
                self._outbox.send(peer.identity, m.Failure.of(internal(error), id=id_))

        self.later(task)

    def _completed(self, message: m.Message) -> m.Message:
        for addendum in self.addenda:
            message = addendum(message)
        return message

    def later(self, task: Callable[[], None]) -> None:
        """Run something that takes time: one such task at a time, in a thread; what it raises is logged."""
        self._thread.submit(_logged, task)

    def close(self) -> None:
        """Begin none of the tasks that wait."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _logged(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:
        logger.exception("a task failed")
