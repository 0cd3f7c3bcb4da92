"""A whole terminal for a view that is drawn again and again, and given back as it was, however the view ends.

On the alternate screen, so that what was there before is there afterwards. What does not belong here: what is shown.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from typing import TYPE_CHECKING, Any, Self

from mlc_jit import bars

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The alternate screen, no cursor, no wrapping; and back."""
_HOME, _TO_THE_RIGHT, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Terminal:
    """Standard output and input as a terminal; a context manager, for the main thread.

    Ctrl-C, Ctrl-Z and SIGTERM leave it as it was found; who continues a stopped view gets it back.
    """

    def __init__(self) -> None:
        self.glyphs = bars.Glyphs.of(getattr(sys.stdout, "encoding", None) or "utf-8")
        self._drawn: list[str] = []
        self._modes: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._wake_r, self._wake_w = os.pipe()
        self._input = sys.stdin.fileno() if _readable() else -1

    def __enter__(self) -> Self:
        os.set_blocking(self._wake_w, False)
        self._take()
        for number, handler in (
            (signal.SIGWINCH, self._resized), (signal.SIGTERM, _end), (signal.SIGHUP, _end),
            (signal.SIGTSTP, self._stopped), (signal.SIGCONT, self._continued),
        ):  # fmt: skip
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._give_back()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def size(self) -> tuple[int, int]:
        """Columns and lines, as of now."""
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24
        return max(bars.LEAST_WIDTH, size.columns or 80), max(2, size.lines or 24)

    def draw(self, lines: Sequence[str], *, dim: bool = False) -> None:
        """Show these lines, the first in bold; what has not changed is not written again.

        Args:
            lines: Each as it is to be seen, without control characters.
            dim: Show all but the first as out of date.
        """
        width, height = self.size()
        shown = [bars.cut(line, width, self.glyphs) for line in lines[:height]]
        marked = [_marked(line, first=not place, dim=dim) for place, line in enumerate(shown)]
        if marked != self._drawn:
            body = f"{_TO_THE_RIGHT}\n".join(marked)
            self._write(f"{_HOME}{body}{_TO_THE_RIGHT}{_BELOW}")
            self._drawn = marked

    def wait(self, seconds: float) -> str:
        """Until a key was pressed, the size changed, or the time is over; the key, if there was one."""
        sources = [self._wake_r, *([self._input] if self._input >= 0 else [])]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._wake_r in ready:
            os.read(self._wake_r, 64)
        if self._input in ready:
            typed = os.read(self._input, 64)
            if not typed:
                self._input = -1  # it was closed
            return typed[:1].decode("ascii", "replace")
        return ""

    # --- the terminal's state ---------------------------------------------------------------------------------------

    def _take(self) -> None:
        self._drawn = []
        if self._input >= 0:
            with contextlib.suppress(termios.error):
                self._modes = termios.tcgetattr(self._input)
                quiet = list(self._modes)
                quiet[3] &= ~(termios.ECHO | termios.ICANON)  # keys at once, and unseen; Ctrl-C stays Ctrl-C
                termios.tcsetattr(self._input, termios.TCSANOW, quiet)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody looks any more
            self._write(_LEAVE)
        if self._modes is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._input, termios.TCSANOW, self._modes)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self._drawn = []
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_w, b"\0")

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        self._take()
        self._resized(number, frame)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _marked(line: str, *, first: bool, dim: bool) -> str:
    if first:
        return f"{_BOLD}{line}{_PLAIN}"
    return f"{_DIM}{line}{_PLAIN}" if dim else line


def _readable() -> bool:
    """Whether keys come from a terminal, and to us: a job in the background would be stopped for reading."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False
