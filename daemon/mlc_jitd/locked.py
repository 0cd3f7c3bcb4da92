"""A key that another process of this host has: a daemon that drains, an `mlc-jitd once`, a collection.

What does not belong here: the lock itself (`store`), other hosts (`fellows`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlc_jit.errors import DaemonUnavailableError
from mlc_jitd.fellows import Came
from mlc_jitd.store import Found
from mlc_jitd.toolchains.base import Stage
from mlc_jitd.verdicts import stopped

if TYPE_CHECKING:
    from mlc_jitd.build import StopSignal
    from mlc_jitd.compiling import Order, Report
    from mlc_jitd.store import KeyLock, Store

LOCKED = "locked"
"""The stage in which another process has the key; no part of a compile."""

SLICE_SECONDS = 0.5
FROZEN_SECONDS = 10.0
"""How long the holder of a key's lock may be stopped until nobody waits for it any more."""


def take(lock: KeyLock, report: Report, stop: StopSignal) -> bool:
    """Take a key's lock, however long that takes.

    Args:
        lock: The lock.
        report: Told who has it.
        stop: Ends the wait from another thread.

    Returns:
        Whether somebody else held it.

    Raises:
        DaemonUnavailableError: Whoever holds it is stopped; ``reason`` is ``frozen``.
        JitError: ``stop`` said so.
    """
    if lock.acquire(0):
        return False
    report(Stage(LOCKED, f"being compiled by {lock.holder() or 'another process'}"))
    thawed_at = time.monotonic()
    while not lock.acquire(SLICE_SECONDS):
        if stop.reason is not None:
            raise stopped(stop.reason, lock.key)
        frozen = lock.frozen()
        if not frozen:
            thawed_at = time.monotonic()
        elif time.monotonic() - thawed_at > FROZEN_SECONDS:
            raise DaemonUnavailableError(
                f"This configuration is being compiled by {frozen}, and that process is stopped.",
                remedy="Let it go on (`kill -CONT`), or end it (`kill -9`), and ask again.",
                reason="frozen",
                key=lock.key,
            )
    return True


class Locked:
    """An `Away`: another process of this host compiles it, and what cores there are belong to other jobs meanwhile.

    Args:
        store: The cache.
        order: What is to be compiled.
    """

    def __init__(self, store: Store, order: Order) -> None:
        self._store = store
        self._order = order

    def wait(self, report: Report, stop: StopSignal) -> Came | None:
        """See `Away.wait`."""
        lock = self._store.lock(self._order.identity.key)
        take(lock, report, stop)
        try:
            answer = self._store.find(lock.key)
        finally:
            lock.release()
        if isinstance(answer, Found) and fresh(answer, self._order):
            return Came(answer.entry)
        return None


def fresh(answer: Found, order: Order) -> bool:
    """Whether an entry that another process had in its hands meanwhile is what was asked for."""
    return not order.redo or answer.entry.manifest.created >= order.asked_at
