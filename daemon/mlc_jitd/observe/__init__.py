"""Seeing: what happened, for people and machines. Nothing here is on the way of a hit, and nothing decides anything.

``record`` holds what happened lately, in memory and pure; ``history`` is its form on disk; ``recorder`` follows the
engine and writes. What shows it (``trace``, ``report/``) is pure: records in, text out.
"""

from __future__ import annotations

from .alone import Alone
from .history import History
from .live import Live
from .record import Answer, Ending, JobRecord, Kernels, Record, Span, Subject, Wait, Who
from .recorder import Recorder

__all__ = [
    "Alone",
    "Answer",
    "Ending",
    "History",
    "JobRecord",
    "Kernels",
    "Live",
    "Record",
    "Recorder",
    "Span",
    "Subject",
    "Wait",
    "Who",
]
