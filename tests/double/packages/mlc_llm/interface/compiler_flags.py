"""As much of upstream's flags as the daemon asks for."""

from __future__ import annotations


class OptimizationFlags:
    """A text that prints itself."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"flags of {self._source}"

    @staticmethod
    def from_str(source: str) -> OptimizationFlags:
        """Any text."""
        return OptimizationFlags(source)
