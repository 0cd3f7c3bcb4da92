"""What has to be looked at again and again, in one thread: an idle daemon wakes for it once, not once for each room.

A call may hang on a file system whose server is gone. Then its thread is left behind, the others are called in a new
one, and it is called again once it has come back. What does not belong here: what the calls do.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
"""How soon it is noticed that the daemon's place was taken, a process with a lease ended, or a file changed without an
event."""

HANG_SECONDS = 20.0


class Rounds:
    """Calls everything in turn, every few seconds. Calls are added before ``start``; the rest may come from any thread.

    Args:
        seconds: Between two rounds.
    """

    def __init__(self, seconds: float = ROUND_SECONDS) -> None:
        self._seconds = seconds
        self._calls: list[Callable[[], object]] = []
        self._at: tuple[Callable[[], object], float] | None = None
        self._away: set[Callable[[], object]] = set()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[[], object]) -> None:
        """Call this in each round; what it raises is logged."""
        self._calls.append(call)

    def start(self) -> None:
        """Begin; the first round is now."""
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self._thread.start()

    def check(self) -> bool:
        """Leave a call behind that hangs; whether one did. Call it now and then, from one thread."""
        at = self._at
        if at is None or time.monotonic() - at[1] < HANG_SECONDS or self._ending.is_set():
            return False
        logger.warning("%s hangs; it is left behind", at[0].__qualname__)
        self._away.add(at[0])
        self._at = None
        self.start()
        return True

    def close(self) -> None:
        """End, and wait a moment for a call that is at work."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while True:
            for call in self._calls:
                if call in self._away:
                    continue
                self._at = (call, time.monotonic())
                try:
                    call()
                except Exception:
                    logger.exception("%s failed", call.__qualname__)
                if threading.current_thread() is not self._thread:
                    self._away.discard(call)
                    return
                self._at = None
            if self._ending.wait(self._seconds):
                return
