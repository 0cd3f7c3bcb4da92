"""Ends the waits of other threads at once: Ctrl-C reaches the main thread alone.

A pipe, so that it can be polled together with a connection. What an interrupted wait leaves behind is its own affair.
"""

from __future__ import annotations

import math
import os
import select
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Interrupt:
    """Set once, from any thread. Those who wait raise ``KeyboardInterrupt`` in their own."""

    def __init__(self) -> None:
        self._out, self._into = os.pipe()

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._out

    def set(self) -> None:
        """End every wait."""
        os.write(self._into, b"!")

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._out in _readable(0, self._out)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` once it is set."""
        if self.is_set():
            raise KeyboardInterrupt

    def close(self) -> None:
        """Give the pipe back, when nobody waits any more."""
        os.close(self._out)
        os.close(self._into)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def readable(fd: int, interrupt: Interrupt | None = None, deadline: float | None = None) -> bool:
    """Wait until a descriptor can be read; whether it can before a deadline in monotonic seconds.

    Raises:
        KeyboardInterrupt: ``interrupt`` was set meanwhile.
    """
    fds = (fd,) if interrupt is None else (fd, interrupt.fileno())
    found = _readable(None if deadline is None else max(0.0, deadline - time.monotonic()), *fds)
    if interrupt is not None and interrupt.fileno() in found:
        raise KeyboardInterrupt
    return fd in found


def _readable(seconds: float | None, *fds: int) -> set[int]:
    """Those that can be read; with poll, since select knows no descriptor beyond 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN | select.POLLHUP)
    milliseconds = None if seconds is None else math.ceil(seconds * 1000)
    return {fd for fd, _ in poll.poll(milliseconds)}
