"""Folders for builds in progress, on the artifacts' own file system, and what is left of them after a crash.

Each folder stands beside a lock file that its owner's process holds; the kernel lets go of it when that process ends,
so a leftover is known without pids or ages.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mlc_jit.held import is_held
from mlc_jitd.store.trouble import too_little_room, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOCK = ".lock"
_NAME = re.compile(r"[0-9a-f]{16}", re.ASCII)


def free_bytes(path: Path) -> int:
    """What an unprivileged user may still write on the file system of ``path``."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class Staging:
    """The staging folders of one home.

    Args:
        root: ``model_lib/.staging``.
        free: Free bytes on the file system of a path.
        reserve: Bytes that no build may plan to use.
    """

    def __init__(self, root: Path, *, free: Callable[[Path], int], reserve: int) -> None:
        self.root = root
        self._free = free
        self._reserve = reserve
        self._promised = 0
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def folder(self, key: str, need: int) -> Iterator[Path]:
        """A fresh empty folder of this user alone, removed afterwards whatever happens.

        Args:
            key: The cache key it is for.
            need: Bytes that the build may write into it; other builds of this process can't plan with them.

        Raises:
            StoreFullError: Less than ``need`` and the reserve is free.
            StoreError: The folder can't be made.
        """
        self._promise(key, need)
        try:
            with translated("make a staging folder", self.root, key=key):
                path, lock = self._make()
            try:
                yield path
            finally:
                _discard(path, lock)
        finally:
            with self._mutex:
                self._promised -= need

    def _promise(self, key: str, need: int) -> None:
        with translated("measure the free space", self.root, key=key), self._mutex:
            free = self._free(self.root)
            if free < need + self._reserve + self._promised:
                raise too_little_room(
                    self.root.parent, free=free, need=need, reserve=self._reserve, promised=self._promised, key=key
                )
            self._promised += need

    def _make(self) -> tuple[Path, FileLock]:
        path = self.root / secrets.token_hex(8)
        lock = _lock(path)
        # The lock first, and on the file that the name still leads to: a sweep in another process never finds a folder
        # whose lock is free.
        lock.acquire()
        try:
            path.mkdir(mode=0o700)
        except BaseException:
            _discard(path, lock)
            raise
        return path, lock

    def sweep(self) -> int:
        """Remove what ended processes left behind; returns how many builds that were."""
        swept = 0
        for name in sorted({entry.name.removesuffix(_LOCK) for entry in self.root.iterdir()}):
            if _NAME.fullmatch(name) is None:
                continue
            lock = _lock(self.root / name)
            try:
                lock.acquire(blocking=False)
            except (Timeout, OSError):
                continue
            found = os.path.lexists(self.root / name)
            swept += _discard(self.root / name, lock) and found
        return swept


def abandoned(root: Path) -> list[Path]:
    """Staging folders whose owner's process has ended. Changes nothing, and waits for nobody."""
    try:
        folders = sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name))
    except OSError:
        return []
    return [path for path in folders if is_held(path.with_name(path.name + _LOCK)) is False]


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_name(path.name + _LOCK), mode=0o600, thread_local=False, fallback_to_soft=False)


def _discard(path: Path, lock: FileLock) -> bool:
    """Remove a folder and then its lock file; returns whether the folder is gone. Never raises for what won't go."""
    try:
        gone = remove_tree(path)
        if gone:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
    finally:
        lock.release()
    return gone


def remove_tree(path: Path) -> bool:
    """Remove a file, a link or a folder with all that is in it, read-only folders too; returns whether it is gone."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            path.unlink()
            return True
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)
