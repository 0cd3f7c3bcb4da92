"""Progress for people: bars on a terminal, redrawn in place, gone at the end; elsewhere a plain line per stage.

Never on standard output. How a bar looks is said in ``bars``; here are the terminal, the clock and the threads.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

from mlc_jit import bars

if TYPE_CHECKING:
    from mlc_jit.messages import Progress

REDRAW_SECONDS = 0.2

_NO_WRAP, _WRAP, _TO_THE_RIGHT, _BELOW = "\x1b[?7l", "\x1b[?7h", "\x1b[K", "\x1b[J"


class Board:
    """The bars of several compiles, below each other. A context manager; from any thread.

    Nothing is written before the first progress, so that a hit leaves no trace.

    Args:
        stream: Where to; standard error by default.
        plain: One line per stage; by default where the stream is no terminal.
    """

    def __init__(self, *, stream: TextIO | None = None, plain: bool | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        if plain is None:
            plain = not self._stream.isatty() or os.environ.get("TERM") == "dumb"
        self.plain = plain
        self._glyphs = bars.Glyphs.of(getattr(self._stream, "encoding", None) or "utf-8")
        self._bars: list[bars.Bar] = []
        self._drawn: list[str] = []
        self._width = self._resizing = 0
        self._lock = threading.Lock()
        self._painter: threading.Thread | None = None
        self._over = threading.Event()
        self._gone = False

    def add(self, label: str) -> Show:
        """One more bar, below the others."""
        bar = bars.Bar(label)
        with self._lock:
            self._bars.append(bar)
        return Show(self, bar)

    def say(self, text: str) -> None:
        """A line for people, above the bars."""
        with self._lock:
            self._write(self._cleared() + text + "\n")
            if self._painter is not None:
                self._draw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        if self._painter is not None:
            self._painter.join()
            self._painter = None
        with self._lock:
            self._write(self._cleared())

    # --- for the bars -----------------------------------------------------------------------------------------------

    def show(self, bar: bars.Bar, progress: Progress) -> None:
        """Take in a bar's progress."""
        with self._lock:
            new = bar.progress is None or bar.progress.stage != progress.stage
            bar.progress, bar.heard = progress, time.monotonic()
            if self.plain:
                if new:
                    self._write(f"mlc-jit: {bars.plain(bar.label)}: {bars.text(progress)} ({_figures(progress)})\n")
                return
            if self._painter is None and not self._over.is_set():
                self._painter = threading.Thread(target=self._paint, name="progress", daemon=True)
                self._painter.start()
            if new:
                self._draw()

    def end(self, bar: bars.Bar, how: str) -> None:
        """A bar's compile is over; the bar stays until all are."""
        with self._lock:
            if bar.progress is not None:
                elapsed = bar.elapsed(time.monotonic())
                bar.ended = how
                bar.progress = _at(bar.progress, elapsed)
            bar.ended = how
            if self._painter is not None:
                self._draw()

    # --- drawing; under the lock ------------------------------------------------------------------------------------

    def _paint(self) -> None:
        while not self._over.wait(REDRAW_SECONDS):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        width, height = self._size()
        if self._drawn and width not in (self._width, self._resizing):
            self._resizing = width  # its lines may be about to be broken anew: look again in a moment
            return
        now = time.monotonic()
        shown = self._bars
        hidden = len(shown) - max(1, height - 1)
        if hidden > 0:  # those that go on are what people look for
            shown = sorted(shown, key=lambda bar: bool(bar.ended))[: max(1, height - 2)]
            hidden = len(self._bars) - len(shown)
        widest = max((bars.cells(bars.plain(bar.label)) for bar in self._bars), default=0)
        lines = [bars.line(bar, width, now, label_width=widest, glyphs=self._glyphs).rstrip() for bar in shown]
        if hidden > 0 and height > 2:  # noqa: PLR2004 - room for it
            lines.append(bars.cut(f"and {hidden} more", width - 1, self._glyphs))
        anew = _BELOW if width != self._width else ""  # first: tmux remembers of a line that it was a broken one
        below = _BELOW if len(lines) < len(self._drawn) else ""
        body = f"{_TO_THE_RIGHT}\n".join(lines)
        # The cursor rests at the beginning of the last line: there the echo of Ctrl-C can't break into a new one.
        self._write(f"{_NO_WRAP}{self._home(width)}{anew}{body}{_TO_THE_RIGHT}{below}\r{_WRAP}")
        self._drawn, self._width = lines, width

    def _home(self, width: int) -> str:
        """To the beginning of what was drawn, which a terminal that became narrower has broken into more lines."""
        above = sum(max(1, -(-bars.cells(line) // width)) for line in self._drawn[:-1])
        return f"\r\x1b[{above}A" if above else "\r"

    def _cleared(self) -> str:
        if not self._drawn:
            return ""
        text = self._home(self._size()[0]) + _BELOW
        self._drawn = []
        return text

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return max(bars.LEAST_WIDTH, size.columns or 80), max(2, size.lines or 24)

    def _write(self, text: str) -> None:
        if not text or self._gone:
            return
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "replace").decode())
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True  # nobody looks any more; the compile goes on
            self._over.set()


class Show:
    """One bar of a board: call it with each progress message."""

    def __init__(self, board: Board, bar: bars.Bar) -> None:
        self._board = board
        self._bar = bar

    def __call__(self, progress: Progress) -> None:
        """Show a message."""
        self._board.show(self._bar, progress)

    def end(self, how: str) -> None:
        """It is over: ``done``, or another word."""
        self._board.end(self._bar, how)


class ProgressLine(Board):
    """A board with one bar, called with its progress.

    Args:
        label: What is being compiled.
        stream: As ``Board``'s.
        plain: As ``Board``'s.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None, plain: bool | None = None) -> None:
        super().__init__(stream=stream, plain=plain)
        self._only = self.add(label)

    def __call__(self, progress: Progress) -> None:
        """Show a message."""
        self._only(progress)


def _figures(progress: Progress) -> str:
    found = [f"{progress.elapsed:.1f} s"]
    if progress.fraction:
        found.append(f"{progress.fraction:.0%}")
    if progress.left is not None:
        found.append(f"about {bars.clock(progress.left)} left")
    return ", ".join(found)


def _at(progress: Progress, elapsed: float) -> Progress:
    return dataclasses.replace(progress, elapsed=elapsed)
