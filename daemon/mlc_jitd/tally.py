"""How often what happened, counted by several threads and read by another. Not here: what the names mean.

A counter's name is words with underscores, wherever it is counted: metrics systems take no others.
"""

from __future__ import annotations

import threading


class Tally:
    """Counts by name. From any thread: a dict that grows can't be read meanwhile, and an addition could be lost."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + by

    def read(self, prefix: str = "") -> dict[str, int]:
        """What was counted so far, each name with a prefix."""
        with self._lock:
            return {f"{prefix}{name}": count for name, count in self._counts.items()}
