"""One thread that does one thing after another, and that can be left behind when a file system holds it for ever."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Lane:
    """A thread with a queue of calls; it never keeps the process from ending.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun: float | None = None
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[], None]) -> None:
        """Do something behind what is waiting; what it raises is logged."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        self._calls.put(call)

    def busy(self) -> float:
        """For how many seconds it has been at one call."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def close(self, *, wait: float = 0.0) -> None:
        """Do what is waiting, then end; waits at most ``wait`` seconds for that."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(wait)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._begun = time.monotonic()
            try:
                call()
            except Exception:
                logger.exception("%s: a call failed", self.name)
            self._begun = None
