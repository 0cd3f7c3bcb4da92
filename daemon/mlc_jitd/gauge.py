"""What the host has, kept fresh without making the engine wait: a GPU driver in trouble can take seconds to answer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.schedule.host import Capacity

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 0.25
"""How long a caller waits for a new reading before it takes the last one; a healthy host takes some 2 ms."""


class Gauge:
    """The latest reading of a host. From any thread.

    Args:
        read: Reads it; may be slow, must not raise.
    """

    def __init__(self, read: Callable[[], Capacity]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self._value = read()
        self._at = time.monotonic()

    def now(self) -> Capacity:
        """The host as of now, or as it was last seen if looking takes too long."""
        if time.monotonic() - self._at >= FRESH_SECONDS:
            self._look().join(PATIENCE_SECONDS)
        return self._value

    def glance(self) -> Capacity:
        """The host as it was last seen; a new look is begun, and not waited for."""
        if time.monotonic() - self._at >= FRESH_SECONDS:
            self._look()
        return self._value

    def _look(self) -> threading.Thread:
        with self._lock:
            if self._reading is None or not self._reading.is_alive():
                self._reading = threading.Thread(target=self._refresh, name="gauge", daemon=True)
                self._reading.start()
            return self._reading

    def _refresh(self) -> None:
        self._value = self._read()
        self._at = time.monotonic()
