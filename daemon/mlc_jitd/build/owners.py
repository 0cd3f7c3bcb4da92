"""Whose job a process is, told by its environment, and the end of jobs whose owner died with all its supervisors.

A supervisor ends its tree when the daemon dies. If both are killed at the same moment, the kernel still ends the
command itself and every supervisor below it (PDEATHSIG), but not what the command had started. So each process of a
job names its owner, and the next process that works on the same cache home ends what the dead left there.

Linux only: elsewhere environments of other processes can't be read, and nothing is ended.

Not guaranteed: a process that emptied its environment and lost its parent is not found; nor is one of another pid
namespace (another container on the same home), whose owner can't be looked up from here.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

from .supervisor import tree
from .supervisor.kernel import LINUX

__all__ = ["OWNER", "end_leftovers", "end_leftovers_soon", "left_behind", "name_of"]

logger = logging.getLogger(__name__)

OWNER = "MLC_JITD_OWNER"
"""The variable that names the owner in the environment of each process of its jobs."""

HELD_SECONDS = 20.0
"""How long a supervisor that outlived its daemon gets for its tree: its grace, and then it kills. It may be stopped."""

PATIENCE = 40.0
_PAUSE, _LOOK = 0.02, 0.5
_SUPERVISOR = b"/supervisor/boot.py"
_NAMESPACES = ("pid", "time")


def name_of(home: Path) -> str:
    """This process as the owner of jobs over a cache home; empty where it could not be found by that."""
    me = tree.read(os.getpid()) if LINUX else None
    return f"{_home(home)}:{me.pid}-{me.start}" if me is not None else ""


def end_leftovers_soon(home: Path) -> None:
    """`end_leftovers` in a thread, which nobody waits for."""
    if LINUX:
        threading.Thread(target=end_leftovers, args=(home,), name="leftovers", daemon=True).start()


def end_leftovers(home: Path) -> list[int]:
    """End the processes of jobs over a home whose owner is no more; come back when two scans in a row find none.

    Those that a supervisor still holds are left to it for a while: it ends them with the grace that they were promised.

    Returns:
        The pids that were ended here.
    """
    prefix = f"{OWNER}={_home(home)}:".encode()
    began = time.monotonic()
    ended: set[int] = set()
    clean = 0
    while clean < 2 and time.monotonic() < began + PATIENCE:  # noqa: PLR2004 - one alone may miss what just forked
        left, held = _leftovers(prefix)
        if time.monotonic() > began + HELD_SECONDS:
            left, held = left + held, []
        clean = 0 if left or held else clean + 1
        tree.send(left, signal.SIGKILL)
        ended.update(process.pid for process in left)
        time.sleep(_LOOK if held and not left else _PAUSE)
    if ended:
        logger.warning("ended %d processes that compiles of a killed daemon had left", len(ended))
    return sorted(ended)


def left_behind(home: Path) -> list[int]:
    """The pids that `end_leftovers` would end, now; ends none of them."""
    if not LINUX:
        return []
    left, _ = _leftovers(f"{OWNER}={_home(home)}:".encode())
    return sorted(process.pid for process in left)


def _leftovers(prefix: bytes) -> tuple[list[tree.Process], list[tree.Process]]:
    """What belongs to dead owners: nobody's, and what a supervisor still holds."""
    here = _namespaces("self")
    table = tree.snapshot()
    marked = {pid for pid in table if pid != os.getpid() and _is_left(pid, prefix, table, here)}
    found = {pid: _is_held(pid, marked, table) for pid in marked}
    for pid, held in list(found.items()):
        found.update({each.pid: held for each in tree.descendants(pid, table) if each.pid not in marked})
    living = [process for pid in found if (process := table[pid]).state != "Z"]
    return [each for each in living if not found[each.pid]], [each for each in living if found[each.pid]]


def _is_left(pid: int, prefix: bytes, table: dict[int, tree.Process], here: list[str]) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone
        return False
    owner = next((each.removeprefix(prefix) for each in environment if each.startswith(prefix)), b"")
    number, _, start = owner.partition(b"-")
    if not number.isdigit() or not start.isdigit() or _namespaces(str(pid)) != here:
        return False
    known = table.get(int(number)) or tree.read(int(number))
    return known is None or known.start != int(start) or known.state == "Z"  # whom its parent has not asked for yet


def _is_held(pid: int, marked: set[int], table: dict[int, tree.Process]) -> bool:
    """Whether the first of its parents that belongs to nobody's job is a supervisor."""
    while pid in marked and pid in table:
        pid = table[pid].parent
    try:
        return any(part.endswith(_SUPERVISOR) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    except OSError:
        return False


def _namespaces(pid: str) -> list[str]:
    found = []
    for name in _NAMESPACES:
        try:
            found.append(os.readlink(f"/proc/{pid}/ns/{name}"))  # noqa: PTH115 - a path that is none
        except OSError:
            found.append("")
    return found


def _home(home: Path) -> str:
    try:
        about = home.stat()
    except OSError:
        return ""
    return f"{about.st_dev:x}-{about.st_ino:x}"
