"""Events of all threads, one after the other: each is a call that waits here until the engine's thread has its turn."""

from __future__ import annotations

import logging
import queue
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Inbox:
    """A line of calls that one thread carries out.

    Args:
        counters: Where a call that raised is counted.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._counters = counters
        self.pulse = time.monotonic()
        """When the thread last took a turn."""

    def post(self, handler: Callable[..., None], *arguments: Any) -> None:
        """Have something called in the engine's thread; from any thread."""
        self._calls.put((handler, arguments))

    def nudge(self) -> None:
        """Have the thread take a turn now; from any thread."""
        self.post(_nothing)

    def empty(self) -> bool:
        """Whether nothing waits; from any thread."""
        return self._calls.empty()

    def turn(self, patience: float, after: Callable[[], None]) -> None:
        """Carry out the next call; what it raises is logged and counted.

        Args:
            patience: Seconds to wait for one.
            after: Called behind it, and also where none came.
        """
        self.pulse = time.monotonic()
        try:
            handler, arguments = self._calls.get(timeout=patience)
        except queue.Empty:
            handler, arguments = _nothing, ()
        try:
            handler(*arguments)
            after()
        except Exception:
            self._counters["engine_errors"] += 1
            logger.exception("an event could not be handled: %s", handler.__name__)


def _nothing() -> None:
    """No event came."""
