"""How much of the cache one user may have filled within a day: beyond that, nothing more is compiled for that user."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jitd.schedule.jobs import Accepted, Busy, Demand, Refused
from mlc_jitd.schedule.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.schedule.host import Capacity
    from mlc_jitd.schedule.jobs import Settings

WINDOW_SECONDS = 86_400.0
ENTRIES = 65_536


@dataclass(frozen=True, slots=True)
class Made:
    """One library that was compiled for somebody: bytes, and when, as a Unix time."""

    uid: int
    size: int
    at: float


class Allowance:
    """What each user had compiled within the last day. From any thread.

    Args:
        limit: Bytes for each user and day, 0 for no limit.
        clock: Unix time.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.time) -> None:
        self.limit = limit
        self._clock = clock
        self._made: deque[Made] = deque(maxlen=ENTRIES)
        self._lock = threading.Lock()

    def add(self, made: Made) -> None:
        """Something was compiled; to be told in the order of time."""
        with self._lock:
            self._made.append(made)

    def taken(self, uid: int) -> int:
        """Bytes that a user has had within the window."""
        now = self._clock()
        with self._lock:
            while self._made and now - self._made[0].at > WINDOW_SECONDS:
                self._made.popleft()
            return sum(each.size for each in self._made if each.uid == uid)


class BoundedQueue(Queue):
    """A queue that takes no job of a user whose allowance is used up.

    What is compiled for somebody else is not refused to that user, nor is what is there already.
    """

    def __init__(self, settings: Settings, allowance: Allowance) -> None:
        super().__init__(settings)
        self._allowance = allowance

    def submit(self, demand: Demand, capacity: Capacity) -> Accepted | Busy | Refused:
        """As ``Queue.submit``."""
        limit = self._allowance.limit
        if limit and (taken := self._allowance.taken(demand.user)) >= limit:
            return Refused(job=demand.job, reason="user-bytes", needed=taken, usable=limit)
        return super().submit(demand, capacity)
