"""Who belongs to a job. Used by the supervisor, and by the daemon for what a killed supervisor left behind.

On Linux a process belongs to the job when its chain of parents leads to the supervisor; the supervisor being a
subreaper, neither setsid nor a double fork breaks that chain. Elsewhere `ps` serves, and a process that both left the
group and was orphaned is not found.

Not guaranteed: what another service starts on the job's behalf (a container by its daemon, a unit by systemd).
"""

# ruff: noqa: PTH123, PTH208 -- importing pathlib costs each job's start 10 ms
from __future__ import annotations

import os

from .kernel import LINUX

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """One process as a scan saw it. `start` is in clock ticks since boot: with `pid` it names a process for good."""

    __slots__ = ("parent", "pid", "rss", "session", "start", "state")

    def __init__(self, pid: int, parent: int, session: int, *, start: int, rss: int, state: str) -> None:
        self.pid = pid
        self.parent = parent
        self.session = session
        self.start = start
        self.rss = rss
        self.state = state


def read(pid: int) -> Process | None:
    """One process from /proc, None when it is gone. Linux only."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid,
        int(fields[1]),
        int(fields[3]),
        start=int(fields[19]),
        rss=int(fields[21]) * _PAGE,
        state=fields[0].decode("ascii"),
    )


def snapshot() -> dict[int, Process]:
    """All processes. Not atomic: who forks or dies meanwhile may be missed, so whoever kills must look again."""
    if not LINUX:
        return _snapshot_by_ps()
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def members(supervisor: int, group: int) -> list[Process]:
    """All descendants of `supervisor`, and what else is in the session (elsewhere: process group) `group`."""
    table = snapshot()
    found = descendants(supervisor, table)
    known = {process.pid for process in found}
    known.add(supervisor)
    found += [process for process in table.values() if process.session == group and process.pid not in known]
    return found


def descendants(root: int, table: dict[int, Process]) -> list[Process]:
    """Those of `table` whose chain of parents leads to `root`, parents before children, `root` not included."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [root]
    while parents:
        born = children.pop(parents.pop(), [])
        found += born
        parents += [process.pid for process in born]
    return found


def walk(root: int) -> list[Process]:
    """The descendants of `root`, cheaply: only their own folders of /proc are read, not those of a whole big host.

    Good for sampling. Not good for killing: the kernel may leave a child out of the list while a sibling exits.
    """
    found: list[Process] = []
    parents = [root]
    while parents:
        pid = parents.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                    parents += [int(child) for child in file.read().split()]
        except FileNotFoundError:
            if pid == root:  # a kernel without CONFIG_PROC_CHILDREN, or no /proc
                return descendants(root, snapshot())
        except OSError:
            pass
        process = read(pid) if pid != root else None
        if process is not None:
            found.append(process)
    return found


def proportional(processes: list[Process], otherwise: int) -> int:
    """Bytes that processes hold together, shared pages counted once; `otherwise` where the kernel does not say.

    Slower than the sum of their `rss`, which is never less: to be asked only when that is too much.
    """
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            if not LINUX or not os.path.exists("/proc/self/smaps_rollup"):  # noqa: PTH110
                return otherwise
        except OSError:  # another user's: what it was seen to hold
            total += process.rss
    return total


def send(processes: list[Process], *signals: int) -> None:
    """Send each of `signals` to each process; who is gone, or is not ours to signal, is passed over."""
    for process in processes:
        for signum in signals:
            try:
                os.kill(process.pid, signum)
            except (ProcessLookupError, PermissionError):
                break


def _snapshot_by_ps() -> dict[int, Process]:
    out, into = os.pipe()
    pid = os.posix_spawn(
        "/bin/ps",
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,rss=,state="],
        {"LC_ALL": "C"},
        file_actions=[(os.POSIX_SPAWN_DUP2, into, 1)],
    )
    os.close(into)
    with os.fdopen(out, encoding="ascii", errors="replace") as file:
        rows = [line.split(None, 4) for line in file]
    os.waitpid(pid, 0)
    table = {}
    for row in rows:
        number, parent, group, rss, state = row
        table[int(number)] = Process(
            int(number), int(parent), int(group), start=0, rss=int(rss) * 1024, state=state[:1]
        )
    table.pop(pid, None)
    return table
