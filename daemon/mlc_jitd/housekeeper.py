"""Keeps the cache within its bounds while the daemon serves: one thread that yields to everybody else.

It writes down what was used, says which leases hold, and collects: after a publish, every so often, and when a compile
lacks room. What it decides nothing about: what goes (``store.collection``), and what is kept (``asks``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from mlc_jit.errors import JitError, StoreError
from mlc_jit.figures import duration, size
from mlc_jit.messages import CacheReport, Status
from mlc_jitd.bounds import rules_of
from mlc_jitd.engine import Onlooker
from mlc_jitd.logs import facts
from mlc_jitd.store import key_of_artifact
from mlc_jitd.store.collected import LastCollection
from mlc_jitd.store.collection import explain
from mlc_jitd.store.leases import RENEW_SECONDS
from mlc_jitd.store.uses import FLUSH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlc_jit.messages import Message
    from mlc_jitd.asks import Asks
    from mlc_jitd.config import Settings
    from mlc_jitd.identity import Identity
    from mlc_jitd.lending import Lending
    from mlc_jitd.store import Entry
    from mlc_jitd.store.collector import Collection, Collector

logger = logging.getLogger(__name__)

FIRST_SECONDS = 30.0
"""How long after its start a daemon collects for the first time: those who wait for it come first."""

BREATH_SECONDS = 0.002
NICE = 10

UNMET_SECONDS = 60.0
"""How soon it is tried again when what was left was in use, pinned or young."""

LOGGED = 20
"""Removals of one collection that the log names one by one."""

RECALLED_SECONDS = 600.0
"""How often what is in use counts as used: for collectors that can't see our leases, on another host, say."""


class Housekeeper(Onlooker):
    """See the module's docstring. ``start`` and ``close`` are called once each.

    Args:
        lending: Leases and uses.
        collector: Removes.
        asks: Which keys are pinned, and which are stale.
        settings: What the cache may take.
    """

    def __init__(
        self,
        lending: Lending,
        collector: Collector,
        asks: Asks,
        settings: Settings,
    ) -> None:
        self._lending = lending
        self._collector = collector
        self._asks = asks
        self._settings = settings
        self.probe: Callable[[bytes], None] = lambda _connection: None
        """Tries a connection; who can't be reached is told to ``Leases.disconnected``."""
        self._collecting = threading.Lock()
        self._wake = threading.Event()
        self._asked = False
        self._unmet = False
        self._reaped = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, within one slice of a collection, and write down what was used."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        held: Iterable[str] = ()
        with contextlib.suppress(StoreError):
            held = self._lending.leases.held()
        self._lending.uses.flush(_keys(held))

    def published(self, identity: Identity, entry: Entry) -> None:  # noqa: ARG002 - an onlooker's
        """The cache has grown."""
        self.nudge()

    def take(self, settings: Settings) -> None:
        """Other settings hold from now on; from any thread."""
        self._settings = settings
        self.nudge()

    def nudge(self) -> None:
        """Collect soon; from any thread."""
        if self._settings.collect_seconds:
            self._asked = True
            self._wake.set()

    def reap(self) -> None:
        """End the leases of processes that have ended. Quick; called in the daemon's rounds."""
        ended = _keys(self._lending.leases.reap())
        for key in ended:
            self._lending.uses.note(key)
        if ended:
            self._reaped += 1
            if self._unmet:
                self.nudge()

    def make_room(self, need: int) -> bool:
        """Collect until so many bytes are free, for a compile that waits for it; whether anything went."""
        with self._collecting:
            return make_room(self._collector, self._asks, self._settings, need)

    def report(self) -> CacheReport:
        """What bounds the cache; reads files."""
        keys = set(self._collector.keys())
        last = self._collector.last() or LastCollection()
        return CacheReport(
            max_size=self._settings.max_size,
            leased=len(self._lending.leases.held()),
            pinned=len(keys & self._asks.pinned().keys()),
            stale=len(keys & self._asks.stale().keys()),
            collected=last.when,
            removed=last.removed,
            freed=last.freed,
            over=last.over,
            short=last.short,
        )

    def complete(self, message: Message) -> Message:
        """A status with the leases that only this process knows of."""
        failures = self._lending.leases.failures
        if not isinstance(message, Status) or not failures:
            return message
        return dataclasses.replace(message, counters={**message.counters, "leases_unwritten": failures})

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if sys.platform == "linux":  # there a thread has a niceness of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        now = time.monotonic()
        chores: dict[Callable[[], None], tuple[float, Callable[[], float]]] = {
            self._flush: (now + FLUSH_SECONDS, lambda: FLUSH_SECONDS),
            self._renew: (now + RENEW_SECONDS, lambda: RENEW_SECONDS),
            self._recall: (now + RECALLED_SECONDS, lambda: RECALLED_SECONDS),
            self._trim: (now + FIRST_SECONDS, lambda: RECALLED_SECONDS),
            self._collect: (now + FIRST_SECONDS, self._every),
        }
        while not self._ending.is_set():
            self._wake.wait(max(0.0, min(due for due, _ in chores.values()) - time.monotonic()))
            self._wake.clear()
            now = time.monotonic()
            for chore, (due, every) in chores.items():
                asked = chore == self._collect and self._asked
                if self._ending.is_set() or (now < due and not asked):
                    continue
                try:
                    chore()
                except Exception:
                    logger.exception("a chore failed")
                chores[chore] = (time.monotonic() + (every() or RECALLED_SECONDS), every)

    def _every(self) -> float:
        """Sooner while the bounds don't hold: a grace ends, say."""
        every = self._settings.collect_seconds
        return min(every, UNMET_SECONDS) if self._unmet else every

    def _flush(self) -> None:
        self._lending.uses.flush()

    def _renew(self) -> None:
        self._lending.uses.flush(_keys(self._lending.leases.renew()))
        for connection in self._lending.leases.unseen():
            self.probe(connection)

    def _recall(self) -> None:
        self._lending.uses.flush(_keys(self._lending.leases.held()))

    def _trim(self) -> None:
        """Kernels within their bound, which may be a new one; also where none are made any more."""
        self._collector.kernels.trim(self._settings.kernel_bytes)

    def _collect(self) -> None:
        self._asked = False
        if not self._settings.collect_seconds:
            return
        self._lending.uses.flush()
        reaped = self._reaped
        with self._collecting:
            try:
                done = self._collector.collect(
                    rules_of(self._settings, self._collector.library),
                    pinned=self._asks.protected(),
                    stale=self._asks.stale(),
                    breathe=lambda: time.sleep(BREATH_SECONDS),
                    stop=self._ending.is_set,
                )
            except JitError as error:
                logger.warning("the cache can't be kept within its bounds: %s", error.message)
                return
        unmet, self._unmet = self._unmet, bool(done.plan.over or done.plan.short)
        tell(done, again=unmet)
        if self._unmet and self._reaped != reaped:
            self.nudge()  # a process ended after its lease was looked at


def make_room(collector: Collector, asks: Asks, settings: Settings, need: int) -> bool:
    """Collect until so many bytes are free; whether anything went. Trouble is logged, not raised."""
    rules = rules_of(settings, collector.library)
    try:
        done = collector.collect(
            dataclasses.replace(rules, min_free=max(need, rules.min_free or 0)),
            pinned=asks.protected(),
            stale=asks.stale(),
        )
    except JitError as error:
        logger.warning("no room could be made: %s", error.message)
        return False
    tell(done)
    return bool(done.removed or done.kernels)


def tell(done: Collection, *, again: bool = False) -> None:
    """Say in the log what a collection did, if it did anything or should have; ``again``: the latter is known."""
    gone = [each for each in done.plan.removals if each.candidate.artifact in done.removed]
    if done.kernels:
        logger.info("kernels removed for room: %s", size(done.kernels))
    if gone:
        about = facts(event="collected", removed=len(gone), freed=done.freed, seconds=done.seconds)
        logger.info("collected %d, %s, in %s", len(gone), size(done.freed), duration(done.seconds), extra=about)
    for each in gone[:LOGGED]:
        logger.info("removed %s: %s", each.candidate.artifact[:12], explain(each, done.rules, done.facts))
    if (done.plan.over or done.plan.short) and not again:
        why = f"{size(done.plan.over)} over its size" if done.plan.over else f"{size(done.plan.short)} short of room"
        logger.warning("the cache stays %s: all that is left is in use, pinned or young", why)


def _keys(artifacts: Iterable[str]) -> set[str]:
    return {key for key in map(key_of_artifact, artifacts) if key is not None}
