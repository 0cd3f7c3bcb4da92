"""What is said to the queue and what it says: plain values. Not here: any decision.

Sizes are bytes, times are seconds; ``now`` and ``submitted`` are on one monotonic clock, whose zero means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlc_jitd.schedule.host import GIB, MIB

Blocked = Literal["slots", "memory", "unknown", "gpu", "exclusive", "turn"]
"""Why a job waits: all slots taken; too little memory free; another job of unknown need runs; no device free that has
room; it must run alone, or one that must is running; another's turn has come, and what is free is kept for it."""

BusyReason = Literal["queue-full", "client-full", "user-full", "prewarm-full"]
RefusedReason = Literal["memory", "no-gpu", "gpu-memory", "user-bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The few figures that an administrator may set; the defaults come from the host.

    Attributes:
        jobs: Compiles at a time; ``None`` for what the cores allow.
        cores_per_job: ``None`` for up to 4: from there on a compile spends most of its time in steps that use one.
        max_queued: Waiting jobs beyond which a client is told that the daemon is busy.
        user_jobs: Waiting and running jobs of one user beyond which that user is; 0 for no limit of its own.
        overtakes: How often others may start before a job that waited longest, until it goes first.
        patience: How long a job that does not fit beside what *others* use on the host waits, with nothing of ours in
            its way, until it starts all the same; and how long one waits that has come not to fit the host at all.
        unknown_memory: What a job of unknown need is taken to need.
        unknown_least: What must be free for one to start when nothing else of ours runs. Measured peaks of the real
            compiler are 0.58 to 0.74 GB.
        unknown_at_once: How many of them run at a time, and as many that nobody waits for before them.
        gpu_context: What a job that names no figure needs on a device: a CUDA context and its libraries.
    """

    jobs: int | None = None
    cores_per_job: int | None = None
    max_queued: int = 256
    user_jobs: int = 0
    overtakes: int = 8
    patience: float = 30.0
    unknown_memory: int = 2 * GIB
    unknown_least: int = 1 * GIB
    unknown_at_once: int = 1
    gpu_context: int = 512 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One compile, as the queue sees it.

    Attributes:
        job: Its name; no two at a time.
        client: Who is charged within the user: a process or a connection.
        submitted: When it was first asked for. A second try keeps it, and so its place.
        interactive: Somebody waits for it; else it is pre-warming.
        memory: The peak expected; ``None`` for unknown.
        estimate: Seconds it is expected to take; ``None`` for unknown.
        gpu: It must open a device.
        gpu_memory: What must be free on that device; ``None`` for a bare context.
        devices: UUIDs of the devices that will do; empty for any.
        exclusive: Nothing else may run beside it: the second try of one that was killed for memory.
    """

    job: str
    client: str
    user: int
    submitted: float
    interactive: bool = True
    memory: int | None = None
    estimate: float | None = None
    gpu: bool = False
    gpu_memory: int | None = None
    devices: tuple[str, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The job waits; ``position`` 1 is next."""

    job: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The job was not taken: as many as may are waiting already. Asking again later may succeed."""

    job: str
    reason: BusyReason
    queued: int
    limit: int

    @property
    def message(self) -> str:
        """One sentence for people."""
        whose = {"queue-full": "", "client-full": " of this client", "user-full": " of this user"}
        kind = "pre-warm jobs" if self.reason == "prewarm-full" else "jobs" + whose[self.reason]
        do = "wait or run" if self.reason == "user-full" else "wait"
        return f"the compile queue is full: {self.queued} {kind} {do} already, {self.limit} may"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The job can never run on this host, whatever ends first.

    Attributes:
        needed: What it needs, in bytes (0 where no GPU is there at all).
        usable: The most that this host can give.
    """

    job: str
    reason: RefusedReason
    needed: int
    usable: int

    @property
    def message(self) -> str:
        """One sentence for people."""
        if self.reason == "user-bytes":
            return (
                f"what was compiled for this user within a day has {self.needed / MIB:,.0f} MiB; "
                f"one user may have {self.usable / MIB:,.0f} MiB"
            )
        if self.reason == "no-gpu":
            return "this compile must open a GPU, and this host has none that it may use"
        where = "of memory" if self.reason == "memory" else "on one GPU"
        return (
            f"this compile needs {self.needed / MIB:,.0f} MiB {where}; "
            f"the most that this host can give is {self.usable / MIB:,.0f} MiB"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The job may start now.

    Attributes:
        cores: Threads it may use, at least 1.
        memory: What is held for it until it is finished: a limit must not be lower. A job that runs alone gets all.
        device: UUID of the device it may open, held for it; ``None`` if it needs none.
        short: What it lacks and starts without, because patience ran out: the host may come under pressure.
    """

    job: str
    cores: int
    memory: int
    device: str | None = None
    short: tuple[Literal["memory", "gpu"], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What one look at the queue came to: who starts, and who has come not to fit this host and was dropped."""

    granted: tuple[Grant, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """How many compiles run at a time, with how many cores each."""

    jobs: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued job: ``blocked`` is why it did not start at the last look, ``passed`` how often others did."""

    demand: Demand
    position: int
    waited: float
    estimate: float | None
    blocked: Blocked | None
    passed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started job."""

    demand: Demand
    grant: Grant
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The whole queue at one moment, in order."""

    slots: Slots
    running: tuple[Running, ...]
    waiting: tuple[Waiting, ...]
