"""Policy, single flight and waiters: a pure state machine, events in, instructions out.

It decides who gets which answer and when a compile starts or ends; it holds no socket, clock, file or process, and
imports no other room, so tests drive it directly. The engine feeds it and carries out what it says. Order and
admission of the jobs it asks for are the queue's business.

The life of a job::

    (none) ──Enqueue──► queued ──started──► running ──finished/failed──► (none)
                          │                    │
                          └─ last waiter left  └─ cancelled by name ──► cancelling ──failed──► (none)

Whoever asks for a key while its job is ``cancelling`` waits for the next job of that key, which is enqueued when the
cancelling one has ended: ``failed``, ``finished`` and ``requeued`` may therefore end with an ``Enqueue`` for their key.
"""

from __future__ import annotations

from .instructions import (
    Asker,
    Deliver,
    Enqueue,
    Instruction,
    Kill,
    Policy,
    Promote,
    Refuse,
    Source,
    Step,
    Tell,
    Trouble,
    Withdraw,
)
from .jobs import LIVE, STAGES_KEPT, Job, JobState
from .machine import Broker
from .refusals import cancelled, disabled, draining, not_cached

__all__ = [
    "LIVE",
    "STAGES_KEPT",
    "Asker",
    "Broker",
    "Deliver",
    "Enqueue",
    "Instruction",
    "Job",
    "JobState",
    "Kill",
    "Policy",
    "Promote",
    "Refuse",
    "Source",
    "Step",
    "Tell",
    "Trouble",
    "Withdraw",
    "cancelled",
    "disabled",
    "draining",
    "not_cached",
]
