"""Requests, jobs and libraries on their way: what the engine's rooms share. Changed in its thread alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jitd.build import StopSignal

if TYPE_CHECKING:
    from mlc_jit import messages as m
    from mlc_jitd import broker as b
    from mlc_jitd.headway import Headway
    from mlc_jitd.identity import Identity
    from mlc_jitd.likeness import Expectation
    from mlc_jitd.peers import Peer
    from mlc_jitd.store import Entry


@dataclass(slots=True)
class Asking:
    """A request on its way.

    Attributes:
        identity: What exactly is asked, once it was looked up.
        again: Whether it was looked up anew because the compiler changed under it.
        why: Why it was no hit, in words.
    """

    peer: Peer
    request: m.JitRequest
    asked_at: float
    identity: Identity | None = None
    again: bool = False
    why: str = ""


@dataclass(slots=True)
class JobState:
    """What the engine holds for one of the broker's jobs."""

    identity: Identity
    asking: Asking
    submitted: float
    like: Expectation
    headway: Headway
    stop: StopSignal = field(default_factory=StopSignal)
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is on its way.

    Attributes:
        broker: Knows which jobs there are.
        asking: Requests without an outcome yet.
        jobs: The engine's side of each of the broker's jobs, by key.
        entries: The newest library known for a key, while something is decided of that key.
    """

    broker: b.Broker
    asking: dict[b.Asker, Asking] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def settle(self, key: str) -> None:
        """Forget a key, unless there is a job for it."""
        if key not in self.broker.jobs:
            self.jobs.pop(key, None)
            self.entries.pop(key, None)

    def running(self) -> int:
        """How many jobs run."""
        return sum(job.state != "queued" for job in self.broker.jobs.values())
