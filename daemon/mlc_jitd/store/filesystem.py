"""On what kind of file system a folder lies, and what that can't do: lock, execute."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre", "nfs", "smb")
"""How the names of file systems begin that may be shared between hosts, or whose locks may be."""

VOLATILE = ("tmpfs", "ramfs")
"""Those that are gone after a restart of the host."""


def why_no_locks(folder: Path) -> str:
    """Why two who lock one file in a folder would not exclude each other; empty where they do.

    Raises:
        OSError: A file can't be made there.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".mlc-jitd-lock-") as file:
        other = os.open(file.name, os.O_RDWR)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(other)
            return f"locking failed: {error.strerror}"
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return ""
        finally:
            os.close(other)
    return "two held one lock at a time"


def can_not_execute(path: Path) -> bool:
    """Whether the file system is mounted so that no library on it can be loaded (``noexec``)."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def is_network(kind: str) -> bool:
    """Whether a type of ``file_system`` may be shared with other hosts, whose processes this one can't see."""
    return kind.startswith(NETWORK)


def file_system(path: Path, *, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a path is, or would be, on; empty where that can't be told.

    Not guaranteed: anything below a folder that can't be looked at. A dead network mount on the way blocks.
    """
    try:
        lines = table.read_text(errors="replace").splitlines()
        real = path.resolve()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:  # noqa: PLR2004 - proc_pid_mountinfo(5)
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind
