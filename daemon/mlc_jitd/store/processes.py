"""Processes as the kernel tells them apart: by pid and start time, within one pid namespace. Reads, signals nobody."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from pathlib import Path

_ENDED = ("Z", "X", "x")
_STATE, _THREADS, _START = 0, 17, 19
"""Fields of /proc/PID/stat, counted from the one behind the command's name."""


def started(pid: int) -> int | None:
    """When a process began: in clock ticks since boot on Linux, in microseconds since 1970 elsewhere.

    A pid and this number name one process until the host is started anew.

    Returns:
        ``None`` if there is none, or if it has ended and waits to be reaped.

    Raises:
        OSError: That can't be told: this user may not see it, or this process has too many open files, say.
    """
    if sys.platform != "linux":
        return _created(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - before a hit's reply leaves
            fields = file.read().rpartition(b")")[2].split()
        # A leader that has ended counts as long as other threads of it run.
        if fields[_STATE].decode() in _ENDED and int(fields[_THREADS]) <= 1:
            return None
        return int(fields[_START])
    except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
        return None


def _created(pid: int) -> int | None:
    import psutil  # noqa: PLC0415 - where there is no /proc

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else int(process.create_time() * 1e6)
    except psutil.NoSuchProcess:
        return None
    except psutil.Error as error:
        raise PermissionError(errno.EPERM, str(error)) from error


@functools.cache
def namespace() -> int:
    """The inode of this process's pid namespace; 0 where there is no such thing. Pids mean nothing across them."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    return 0


def program(pid: int) -> str:
    """The name of a process's program for people, or an empty string."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""
