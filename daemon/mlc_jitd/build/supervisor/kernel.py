"""System calls that Python does not have, and the kernel's own counters: best effort, each says whether it held."""

# ruff: noqa: PTH123 -- importing pathlib costs each job's start 10 ms
from __future__ import annotations

import os
import sys

LINUX = sys.platform == "linux"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282, "i686": 289, "armv7l": 314}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_BEST_EFFORT_LAST = 2 << 13 | 7
_IOPRIO_IDLE = 3 << 13

if LINUX:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> bool:
    return LINUX and _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0


def become_subreaper() -> bool:
    """Make orphans among this process's descendants its own children. Linux only."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int) -> bool:
    """Have the kernel send `signum` to this process when its parent dies. Linux only.

    Not guaranteed: the kernel forgets it when a set-user-id program is executed, and never passes it on to children.
    """
    return _prctl(_PR_SET_PDEATHSIG, signum)


def lower_io_priority(*, background: bool) -> bool:
    """Put this process last among best effort for disk access, or in the idle class for background work."""
    number = _IOPRIO_SET.get(os.uname().machine) if LINUX else None
    if number is None:
        return False
    priority = _IOPRIO_IDLE if background else _IOPRIO_BEST_EFFORT_LAST
    return int(_libc.syscall(ctypes.c_long(number), _IOPRIO_WHO_PROCESS, 0, priority)) == 0


def leave_idle(pid: int) -> None:
    """Put the threads of a process into SCHED_BATCH, as far as the kernel lets a user take that step back."""
    if not LINUX:
        return
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208  # no pathlib in here
    except OSError:
        return
    for thread in threads:
        try:
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        except OSError:  # gone; or a user whose RLIMIT_NICE does not reach so far
            continue


def lower_autogroup(pid: int, nice: int) -> bool:
    """Lower the scheduling group of `pid`'s session: under sched_autogroup `nice` counts only inside of it.

    The kernel takes one such change per 100 ms from a process without CAP_SYS_ADMIN: False may mean "ask again".
    """
    return _write(f"/proc/{pid}/autogroup", str(nice))


def raise_oom_score(score: int) -> bool:
    """Make this process a better victim for the kernel's out-of-memory killer, never a worse one."""
    current = _read("/proc/self/oom_score_adj")
    if current is None:
        return False
    return int(current) >= score or _write("/proc/self/oom_score_adj", str(score))


def enter_group(folder: str) -> bool:
    """Move this process into a control group; what it starts from then on is in it too."""
    return _write(f"{folder}/cgroup.procs", "0")


def oom_kills_in(folder: str) -> int:
    """How often the kernel killed for memory in one control group; 0 where it has no counter."""
    for name in ("memory.events", "memory.oom_control"):
        counted = _field(f"{folder}/{name}", "oom_kill")
        if counted is not None:
            return counted
    return 0


def oom_kills() -> int:
    """How often the kernel killed for memory in this process's control group (v1 or v2), else on the whole host.

    Not guaranteed: the counters don't say whom. Other processes of the group count, and so, where the group has no
    counter, do those of the host. 0 where nothing can be read.
    """
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            counted = _field(f"/sys/fs/cgroup{path}/memory.events", "oom_kill")
        elif controllers == "memory":
            counted = _field(f"/sys/fs/cgroup/memory{path}/memory.oom_control", "oom_kill")
            if counted is None:  # in a container the group's path is often mounted as the root
                counted = _field("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill")
        else:
            continue
        if counted is not None:
            return counted
    return _field("/proc/vmstat", "oom_kill") or 0


def _field(path: str, name: str) -> int | None:
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def _write(path: str, text: str) -> bool:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return False
    return True
