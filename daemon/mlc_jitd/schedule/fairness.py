"""Who has had how much: the accounts by which users, and within a user its clients, take turns. Pure.

Start-time fair queueing: each account holds the cost of what it was granted; the lowest goes first. One that comes to
an empty hand starts level with the lowest active account, so that nobody saves up turns by having been away, and keeps
what it recently had, so that nobody gains by asking for one thing at a time.

Source: Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM 1996), with costs settled when they are known.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

REMEMBERED = 256
"""How many accounts that have nothing queued or running are kept."""


class Accounts(Generic[K]):
    """What each key was granted, in seconds of one slot."""

    def __init__(self) -> None:
        self._had: dict[K, float] = {}
        self._active: dict[K, int] = {}

    def enter(self, key: K) -> None:
        """One more job of this key is queued or running."""
        if key not in self._active:
            level = min((self._had[each] for each in self._active), default=0.0)
            if not self._active:
                self._had.clear()  # an idle host owes nobody
            self._had[key] = max(self._had.pop(key, level), level)
        self._active[key] = self._active.get(key, 0) + 1

    def leave(self, key: K) -> None:
        """One job of this key is over, or was withdrawn."""
        self._active[key] -= 1
        if self._active[key] == 0:
            del self._active[key]
            idle = [each for each in self._had if each not in self._active]
            for forgotten in idle[: max(0, len(idle) - REMEMBERED)]:
                del self._had[forgotten]

    def charge(self, key: K, cost: float) -> None:
        """Add what the key was granted; negative where it took less than thought."""
        self._had[key] += cost

    def had(self, key: K) -> float:
        """What the key was granted: less goes first."""
        return self._had[key]

    def validate(self, active: dict[K, int]) -> None:
        """Check that exactly these keys have so many jobs."""
        assert self._active == active, (self._active, active)
        assert set(active) <= set(self._had)
        assert len(self._had) <= len(active) + REMEMBERED + 1
