"""The daemon's broom for what a killed supervisor leaves behind: the kernel ended only the command itself.

Linux only: elsewhere `ps` shows neither environments nor start times, so only the recorded groups are looked at.

Not guaranteed: a process that emptied its environment, made a session of its own and lost its parent, all since the
supervisor's last sample, is not found.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .supervisor import tree
from .supervisor.child import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["sweep"]

_PATIENCE = 10.0
_PAUSE = 0.02


def sweep(job: str, seen: Iterable[tuple[int, int, int]]) -> list[int]:
    """Kill all that is left of a job, and come back when two scans in a row find nothing.

    Args:
        job: The job's id, as in the marker variable.
        seen: (pid, start, session) of processes that the supervisor reported.

    Returns:
        The pids that were still there after 10 s: another user's, or stuck in the kernel.
    """
    known = {(pid, start) for pid, start, _ in seen}
    sessions = {session for _, _, session in seen}
    give_up_at = time.monotonic() + _PATIENCE
    clean = 0
    while True:
        left = _members(job, known, sessions)
        clean = 0 if left else clean + 1
        if clean > 1 or time.monotonic() > give_up_at:
            return [process.pid for process in left]
        tree.send(left, signal.SIGKILL)
        known |= {(process.pid, process.start) for process in left}
        time.sleep(_PAUSE if left else 0)


def _members(job: str, known: set[tuple[int, int]], sessions: set[int]) -> list[tree.Process]:
    table = tree.snapshot()
    marker = f"{MARKER}={job}".encode()
    roots = [
        process
        for process in table.values()
        if (process.pid, process.start) in known or process.session in sessions or _is_marked(process.pid, marker)
    ]
    found = {process.pid: process for root in roots for process in [root, *tree.descendants(root.pid, table)]}
    return [process for process in found.values() if process.state != "Z"]


def _is_marked(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
