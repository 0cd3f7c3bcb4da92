"""Progress on a terminal: one line, rewritten in place; elsewhere a plain line per stage. Never on standard output."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from mlc_jit.messages import Progress

REDRAW_SECONDS = 0.1
LEAST_WIDTH = 20


class ProgressLine:
    """Shows the progress of one request; use it as a context manager, so that the terminal is left tidy.

    Args:
        label: What is being compiled.
        stream: Where to; standard error by default.
        plain: One line per stage; by default where the stream is no terminal.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None, plain: bool | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._plain = not self._stream.isatty() if plain is None else plain
        self._stage = ""
        self._drawn = 0.0
        self._shown = False

    def __call__(self, progress: Progress) -> None:
        """Show a message."""
        new = progress.stage != self._stage
        self._stage = progress.stage
        text = progress.stage if not progress.detail else f"{progress.stage}: {progress.detail}"
        if self._plain:
            if new:
                self._stream.write(f"mlc-jit: {self._label}: {text} ({progress.elapsed:.1f} s)\n")
                self._stream.flush()
            return
        now = time.monotonic()
        if not new and now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        done = "" if progress.fraction is None else f"{progress.fraction:4.0%} "
        line = f"{self._label}  {done}{text}  {progress.elapsed:.0f} s"
        self._stream.write(f"\r\x1b[2K{_fit(line, _width(self._stream) - 1)}")
        self._stream.flush()
        self._shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


def _width(stream: TextIO) -> int:
    try:
        return max(LEAST_WIDTH, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        return 80


def _fit(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
