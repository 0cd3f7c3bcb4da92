"""Reading files that may be damaged, planted or changing: no link is followed, nothing blocks, doubts have names."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import stat
from typing import TYPE_CHECKING

from mlc_jitd.store.access import distrust

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Stamp = tuple[int, int, int, int, int]
"""(dev, ino, size, mtime_ns, ctime_ns): while it is equal, and settled, so is the content."""

SETTLE_SECONDS = 2.0
"""A file that changed so shortly before it was read could change again under an equal stamp, on the coarsest clocks
that file systems keep: what was read is not remembered."""

# O_NONBLOCK: a FIFO in the place of a file must not hold the reader.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_LINK = frozenset({errno.ELOOP, errno.EMLINK})
_NO_FILE = frozenset({errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP})


class DamagedError(Exception):
    """The file is not what it should be; the message says how, as a sentence without its stop."""


class ForeignError(Exception):
    """The file may be whole, but others decide what is in it.

    Args:
        detail: What is wrong.
        remedy: The command that puts it right.
    """

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.remedy = remedy


class ChangedError(Exception):
    """The file changed while it was looked at: look again."""

    def __str__(self) -> str:
        return "it changed while it was looked at"


def stamp_of(status: os.stat_result) -> Stamp:
    """What is compared to see that a file stayed as it was."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def settled(stamp: Stamp, now: float) -> bool:
    """Whether a file with this stamp, read at the Unix time ``now``, could no longer change without showing it."""
    limit = SETTLE_SECONDS * 1e9
    return all(abs(now * 1e9 - moment) > limit for moment in stamp[3:])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file that can be trusted, open for reading: its descriptor and its status.

    Raises:
        FileNotFoundError: There is none.
        ForeignError: It belongs to others, they may write it, or this user may not read it.
        DamagedError: It is a link, no regular file, or the disk won't give it.
        OSError: This process or the machine is in trouble (too many open files, say): it says nothing of the file.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise _judged(error, path) from error
    try:
        status = os.fstat(fd)
        _refuse_foreign(status, path)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path} is no regular file")
        yield fd, status
    finally:
        os.close(fd)


def read(path: Path, limit: int) -> tuple[bytes, Stamp]:
    """A small file's bytes and stamp; errors as ``opened``, and ``ChangedError`` when it changed meanwhile."""
    with opened(path) as (fd, status):
        if status.st_size > limit:
            raise DamagedError(f"{path} has {status.st_size} bytes")
        with _disk(path):
            payload = os.read(fd, limit + 1)
        _refuse_change(fd, status)
        return payload, stamp_of(status)


def digest(fd: int, path: Path) -> tuple[str, Stamp]:
    """SHA-256 of an open file, in hex, and its stamp, which was equal before and after.

    Raises:
        ChangedError: It changed meanwhile.
        DamagedError: The disk won't give it.
    """
    before = os.fstat(fd)
    with _disk(path), open(fd, "rb", buffering=0, closefd=False) as file:
        os.lseek(fd, 0, os.SEEK_SET)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _refuse_change(fd, before)
    return found, stamp_of(before)


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, payload: bytes, mode: int) -> None:
    """A new file whose content is on the disk; an existing one is never touched (``FileExistsError``)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        view = memoryview(payload)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _judged(error: OSError, path: Path) -> Exception:
    if error.errno in _LINK or error.errno in _NO_FILE:
        _refuse_foreign(os.lstat(path), path)
        return DamagedError(f"{path} is {'a symbolic link' if error.errno in _LINK else 'no regular file'}")
    if error.errno in (errno.EACCES, errno.EPERM):
        _refuse_foreign(os.lstat(path), path)
        return ForeignError(f"{path} can't be read: {error.strerror}", f"Run: chmod u+r {shlex.quote(str(path))}")
    if error.errno == errno.EIO:
        return DamagedError(f"{path} can't be read: {error.strerror}")
    return error


def _refuse_foreign(status: os.stat_result, path: Path) -> None:
    doubt = distrust(status, path)
    if doubt:
        raise ForeignError(*doubt)


def _refuse_change(fd: int, before: os.stat_result) -> None:
    if stamp_of(os.fstat(fd)) != stamp_of(before):
        raise ChangedError


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedError(f"{path} can't be read: {error.strerror}") from error
        raise
