"""A little room that is kept in a file, so that a collection can work on a disk that is full to the last byte."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BYTES = 1 << 20
"""Enough for lock files and folder blocks."""

PLENTY = 64 << 20
"""With less than this free, the reserve is not filled: others need it more."""


class Reserve:
    """The reserve of one home.

    Args:
        path: Its file.
        free: Free bytes on the file system of a path.
    """

    def __init__(self, path: Path, free: Callable[[Path], int]) -> None:
        self._path = path
        self._free = free

    def fill(self) -> None:
        """Take the room, where there is plenty."""
        with contextlib.suppress(OSError):
            if self._free(self._path.parent) < PLENTY or self._filled():
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, os.urandom(BYTES), 0)  # neither a hole nor zeros: those may take no room
            finally:
                os.close(fd)

    def spend(self) -> bool:
        """Give the room back; whether there was some."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _filled(self) -> bool:
        try:
            return os.lstat(self._path).st_size >= BYTES
        except FileNotFoundError:
            return False
