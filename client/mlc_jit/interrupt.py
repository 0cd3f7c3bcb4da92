"""Ends the waits of other threads at once: Ctrl-C reaches the main thread alone.

A pipe, so that it can be polled together with a connection. What an interrupted wait leaves behind is its own affair.
"""

from __future__ import annotations

import os
import select
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
        return bool(select.select([self._out], [], [], 0)[0])

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` once it is set."""
        if self.is_set():
            raise KeyboardInterrupt

    def readable(self, fd: int) -> None:
        """Wait until a descriptor can be read.

        Raises:
            KeyboardInterrupt: It was set meanwhile.
        """
        if self._out in select.select([fd, self._out], [], [])[0]:
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
