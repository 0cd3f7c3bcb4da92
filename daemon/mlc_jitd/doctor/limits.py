"""What the system lets a process have (ulimit, pids of a control group, inotify), and what of it is too little here."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.compiling import STAGING_BYTES
from mlc_jitd.doctor.finding import Finding, size
from mlc_jitd.schedule.capacity.cgroups import Groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

FEW_DESCRIPTORS = 1024
"""Each thread of a client that waits costs the daemon one; a compile, its log and its pipes cost a dozen."""

LITTLE_SPACE = 16 << 30
"""Of address space: a compiler reserves far more than it uses, a CUDA driver several times the GPU's memory."""

FEW_PROCESSES = 64
"""That may still be started: a compile is a supervisor, a compiler, its threads and linker."""

INOTIFY = Path("/proc/sys/fs/inotify")
_RAISE = "Raise it where the daemon is started (`ulimit`, /etc/security/limits.conf, or Limit…= of its unit)."


def limits(_patient: Patient) -> Iterator[Finding]:
    """The limits that a daemon which is started from here, and its compiles, would have."""
    found = [slip for look in (_descriptors, _space, _file_size, _seconds, _processes) if (slip := look()) is not None]
    yield from found
    if not found:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        may = "any number" if hard == resource.RLIM_INFINITY else f"{hard}"
        yield Finding(
            check="limits", level="ok", found=f"{may} of open files, no limit that a compile would meet",
            facts={"descriptors": hard},
        )  # fmt: skip


def _descriptors() -> Finding | None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the daemon raises its soft limit itself
    if hard == resource.RLIM_INFINITY or hard >= FEW_DESCRIPTORS:
        return None
    return Finding(
        check="limits", level="note", found=f"a process may have {hard} files open (ulimit -Hn)",
        follows=f"beyond about {max(0, hard - 64)} waiting threads of clients, others are not heard", remedy=_RAISE,
        facts={"descriptors": hard},
    )  # fmt: skip


def _space() -> Finding | None:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY or soft >= LITTLE_SPACE:
        return None
    return Finding(
        check="limits", level="note", found=f"address space is limited to {size(soft)} (ulimit -v)",
        follows="compilers reserve much more than they use, and fail with MemoryError or without a word",
        remedy=f"{_RAISE} Memory is better bounded by a control group.", facts={"address_space": soft},
    )  # fmt: skip


def _file_size() -> Finding | None:
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if soft == resource.RLIM_INFINITY or soft >= STAGING_BYTES:
        return None
    return Finding(
        check="limits", level="problem", found=f"a file may have {size(soft)} (ulimit -f)",
        follows="a larger library or log ends the compile by SIGXFSZ", remedy=_RAISE, facts={"file_size": soft},
    )  # fmt: skip


def _seconds() -> Finding | None:
    soft = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if soft == resource.RLIM_INFINITY:
        return None
    return Finding(
        check="limits", level="note", found=f"a process may use {soft} s of processor time (ulimit -t)",
        follows="a compile that needs more is ended by SIGXCPU, and so is a daemon one day", remedy=_RAISE,
        facts={"cpu_seconds": soft},
    )  # fmt: skip


def _processes() -> Finding | None:
    """The pids of the control group, which bind root too; else those of the user."""
    for group in Groups(Path("/")).of("pids"):
        try:
            most, now = ((group.folder / name).read_text().strip() for name in ("pids.max", "pids.current"))
        except OSError:
            continue
        if most.isdigit() and int(most) - int(now) < FEW_PROCESSES:
            return _too_few(f"its control group may have {most} processes and has {now} ({group.name})", int(most))
    most_ = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and most_ != resource.RLIM_INFINITY and most_ < FEW_PROCESSES:
        return _too_few(f"this user may have {most_} processes (ulimit -u)", most_)
    return None


def _too_few(found: str, most: int) -> Finding:
    return Finding(
        check="limits", level="problem", found=found, follows="compilers and their threads can't be started",
        remedy=f"{_RAISE} For a container: its pids limit.", facts={"processes": most},
    )  # fmt: skip


def watches(patient: Patient) -> Iterator[Finding]:
    """Whether model folders can be watched by events: an instance and a watch of inotify are tried."""
    if patient.places is None or not sys.platform.startswith("linux"):
        return
    facts = {name: value for name in ("max_user_watches", "max_user_instances") if (value := _read(name)) is not None}
    why = _try_inotify(patient.places.home)
    if not why:
        allowed = f"{facts['max_user_watches']} watches a user" if "max_user_watches" in facts else "inotify"
        yield Finding(
            check="watches", level="ok", found=f"model folders are watched by events ({allowed})", facts=facts
        )
        return
    limit = "max_user_watches" if why == errno.ENOSPC else "max_user_instances"
    yield Finding(
        check="watches",
        level="note",
        found=f"inotify can't be used: {os.strerror(why)} ({limit} is {facts.get(limit, 'unknown')})",
        follows="model folders are looked at every 2 s instead; answers are right either way",
        remedy=f"`sysctl fs.inotify.{limit}=NUMBER` with a larger one, on the host, or end what holds so many.",
        facts={**facts, "errno": why},
    )


def _try_inotify(folder: Path) -> int:
    """0, or the errno of what was refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return ctypes.get_errno()
    try:
        return 0 if libc.inotify_add_watch(descriptor, os.fsencode(folder), 0x100) >= 0 else ctypes.get_errno()
    finally:
        os.close(descriptor)


def _read(name: str) -> int | None:
    try:
        return int((INOTIFY / name).read_text())
    except (OSError, ValueError):
        return None
