"""What the broker tells the engine to do, and the plain values in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Asker = tuple[bytes, int]
"""A waiting request: the connection's identity and the request's id on it."""

Policy = Literal["ON", "OFF", "REDO", "READONLY"]
Source = Literal["hit", "compiled", "joined"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request is not met, in the terms of ``mlc_jit.errors``: ``kind`` names the class."""

    kind: str
    message: str
    remedy: str = ""
    reason: str = ""
    log_path: str = ""
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a job is, as waiters are told.

    Attributes:
        left: Seconds until its end, where they are known.
        at: Seconds after the job was asked for. Another time alone makes it no other step.
    """

    stage: str
    detail: str = ""
    fraction: float | None = None
    left: float | None = None
    at: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the entry of the key to the asker."""

    asker: Asker
    key: str
    source: Source
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the asker that it gets no library."""

    asker: Asker
    trouble: Trouble
    key: str = ""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Put a new job for the key into the queue. The key's job before it, if there was one, has ended.

    Attributes:
        redo: An entry that exists is no answer. A ``REDO`` that joins while the job is queued sets ``Job.redo`` too.
        asker: Who caused the job; it waits for it.
    """

    key: str
    interactive: bool
    redo: bool
    asker: Asker


@dataclass(frozen=True, slots=True)
class Promote:
    """An interactive asker joined a pre-warm job: one that is queued, or one that runs and may yet be requeued."""

    key: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody waits for this queued job any more: drop it."""

    key: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End this running job's process tree."""

    key: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a job's progress to the askers."""

    askers: tuple[Asker, ...]
    key: str
    step: Step


Instruction = Deliver | Refuse | Enqueue | Promote | Withdraw | Kill | Tell
