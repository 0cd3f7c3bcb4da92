"""Whether a file is one that we wrote: by what it looks like, else by its content.

A home that was copied or restored has the same files with other inodes and times, so these alone tell nothing against a
file. What belongs here: the comparison. Not: what was written, and where that is kept (``upstream``).
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from mlc_jitd.store.copying import holds

if TYPE_CHECKING:
    import os
    from collections.abc import Collection
    from pathlib import Path

Mark = tuple[int, int, int]
"""(inode, size, mtime_ns) of a file that we wrote. A link changes the ctime, and a reboot may change the device."""


def mark_of(status: os.stat_result) -> Mark:
    """What a file looks like."""
    return (status.st_ino, status.st_size, status.st_mtime_ns)


class Comparison:
    """Compares files with what we wrote, and reads each once as long as it looks the same. From any thread."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[Mark, int, str], bool]] = {}

    def same(self, path: Path, status: os.stat_result, made: Collection[Mark], size: int, sha256: str) -> bool:
        """Whether a file is what we wrote.

        Args:
            path: The file.
            status: Its ``lstat``.
            made: How it looked when we wrote it.
            size: Its bytes.
            sha256: Its content, hex.

        Raises:
            OSError: It looks different, and can't be read.
        """
        mark = mark_of(status)
        if mark in made:
            return True
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        seen = (mark, status.st_ctime_ns, sha256)
        known = self._read.get(path)
        if known is None or known[0] != seen:
            known = self._read[path] = (seen, holds(path, sha256))
        return known[1]
