"""A file with another one's content and an inode of its own: shared blocks where the file system can, else copied."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODE = 0o644

_FICLONE = 0x40049409
"""ioctl of Linux: btrfs, XFS, bcachefs, overlays on these."""


def copied(source: Path, target: Path, sha256: str) -> os.stat_result:
    """Make a new file with a file's content, on the disk.

    Args:
        source: What to copy.
        target: Must not be there.
        sha256: What the copy must have, hex.

    Returns:
        The new file's status.

    Raises:
        OSError: It can't be made, or the content is another one; then the target is there all the same.
    """
    with source.open("rb") as origin, target.open("xb") as copy:
        if not _cloned(copy.fileno(), origin.fileno()):
            shutil.copyfileobj(origin, copy, 1 << 20)
        copy.flush()
        os.fchmod(copy.fileno(), MODE)
        os.fsync(copy.fileno())
        status = os.fstat(copy.fileno())
    if not holds(target, sha256):
        raise OSError(errno.EIO, "the copy does not have the artifact's content", str(source))
    return status


def holds(path: Path, sha256: str) -> bool:
    """Whether a file has this content; links are not followed.

    Raises:
        OSError: It can't be read, or is a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _cloned(target: int, source: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
