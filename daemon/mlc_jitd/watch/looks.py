"""Looks are taken in a thread of their own; one that hangs is left to hang, and another thread takes the rest.

When a network file system's server is gone, a look at it hangs for ever, and so would each next one: until the first
comes back, nothing on that mount is looked at.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from mlc_jitd.watch.lane import Lane
from mlc_jitd.watch.look import look
from mlc_jitd.watch.mounts import Mounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.watch.arming import Watched
    from mlc_jitd.watch.look import Look

HANG_SECONDS = 20.0
MOST_HANGING = 16
"""Threads that may be left behind; beyond that, looks wait."""


class Looks:
    """Takes looks. All but ``found`` is called in the watcher's thread.

    Args:
        found: Told what a look found, in the thread that took it.
        take: Takes one.
    """

    def __init__(self, found: Callable[[Watched, Look], None], take: Callable[..., Look] = look) -> None:
        self._found = found
        self._take = take
        self._lane = Lane("watch-looks")
        self._waiting: deque[Watched] = deque()
        self._at: Watched | None = None
        self._away: dict[str, str] = {}

    def take(self, held: Watched, *, thoroughly: bool) -> bool:
        """Have a folder looked at; whether it will be: nothing is, where a look hangs."""
        if self._away and self._place(held.path) in self._away.values():
            held.manner, held.why = "unreachable", "its file system does not answer"
            return False
        held.looking = True
        lane, last = self._lane, held.last
        self._waiting.append(held)

        def task() -> None:
            if lane is not self._lane:
                return  # it was taken over by the next lane
            if self._waiting and self._waiting[0] is held:
                self._waiting.popleft()
            self._at = held
            self._found(held, self._take(held.path, last, thoroughly=thoroughly, now=time.time()))

        lane.do(task)
        return True

    def check(self) -> Watched | None:
        """Leave a look behind that hangs: its folder. Those that waited behind it are no longer being looked at."""
        stuck = self._at
        if stuck is None or self._lane.busy() < HANG_SECONDS or len(self._away) >= MOST_HANGING:
            return None
        self._away[stuck.path] = self._place(stuck.path)
        abandoned, self._lane = self._lane, Lane("watch-looks")
        abandoned.close()
        for held in self._waiting:
            held.looking = False
        self._waiting.clear()
        stuck.manner, stuck.why = "unreachable", "its file system does not answer"
        return stuck

    def ended(self, held: Watched) -> bool:
        """A look has ended; whether it is one that was left behind."""
        return self._away.pop(held.path, None) is not None

    def close(self) -> None:
        """End, without waiting for what hangs."""
        self._lane.close()

    def _place(self, path: str) -> str:
        """What hangs together: a network's mount; elsewhere the folder alone."""
        mounts = Mounts()
        return mounts.place(path) if mounts.silent(path) not in ("", "overlay") else path
