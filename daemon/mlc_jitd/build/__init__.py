"""Run one command as a process tree within limits. Knows nothing of compilers.

What belongs here: starting, watching and ending processes, and their log. What does not: what to run, and what its
output means.
"""

from __future__ import annotations

from .cgroup import JobGroups
from .limits import CommandLike, Limits, Outcome, Status
from .owners import end_leftovers_soon
from .owners import name_of as owner_of
from .runner import run
from .stop import StopReason, StopSignal
from .warm import Kind, WarmCompilers

__all__ = [
    "CommandLike",
    "JobGroups",
    "Kind",
    "Limits",
    "Outcome",
    "Status",
    "StopReason",
    "StopSignal",
    "WarmCompilers",
    "end_leftovers_soon",
    "owner_of",
    "run",
]
