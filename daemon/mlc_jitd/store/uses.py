"""When a key was last used: the modification time of an empty file for each, written off the way of a hit.

The artifact's own times are part of its stamp and stay as they are. A key without a file was last used when it was
published. Not guaranteed: the last seconds before a daemon was killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from mlc_jitd.store.layout import check_key, is_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FLUSH_SECONDS = 30.0
"""How often a daemon writes down what was used."""


class Uses:
    """The last uses of one home's keys. From any thread.

    Args:
        folder: ``Layout.used``; made when the first use is written.
        clock: Unix time.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._noted: set[str] = set()

    def note(self, key: str) -> None:
        """The key is used now; ``flush`` writes it down."""
        self._noted.add(key)

    def flush(self, more: Iterable[str] = ()) -> None:
        """Write down what was noted, and ``more`` keys, as used now. What can't be written is lost."""
        noted, self._noted = self._noted, set()
        keys = set(more)
        while noted:  # another thread may just be adding to it
            keys.add(noted.pop())
        now = self._clock()
        for key in keys:
            with contextlib.suppress(OSError):
                self._write(self._folder / check_key(key), now)

    def _write(self, path: Path, now: float) -> None:
        try:
            os.utime(path, (now, now), follow_symlinks=False)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            os.utime(path, (now, now), follow_symlinks=False)

    def last(self, key: str) -> float:
        """Unix time of the key's last use, 0.0 if none is written down."""
        try:
            return os.lstat(self._folder / key).st_mtime
        except OSError:
            return 0.0

    def read(self) -> dict[str, float]:
        """The last uses of all keys that have one, as Unix times."""
        found = {}
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if is_key(entry.name):
                    with contextlib.suppress(OSError):
                        found[entry.name] = entry.stat(follow_symlinks=False).st_mtime
        return found

    def forget(self, key: str) -> None:
        """The key's entry is gone."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / key)  # noqa: PTH108 - ten thousand of them
