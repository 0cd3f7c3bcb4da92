"""What a job is, what it may use, and how it ended: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CommandLike", "Limits", "Outcome", "Status"]

Status = Literal["exited", "signalled", "timed-out", "silent", "out-of-memory", "cancelled", "lost"]

_SMALLEST_LOG = 4096


class CommandLike(Protocol):
    """What to run: `mlc_jitd.toolchains` makes these; this room takes anything of the shape."""

    @property
    def argv(self) -> tuple[str, ...]:
        """Program and arguments. A program without a slash is looked up in the PATH of `env`."""

    @property
    def env(self) -> tuple[tuple[str, str], ...]:
        """The whole environment; only MLC_JITD_JOB and MLC_JITD_OWNER are added."""

    @property
    def cwd(self) -> Path:
        """The working folder, absolute."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use. Times in seconds, sizes in bytes, None for no limit.

    Args:
        total: From start to end. The longest real compile that was seen took minutes; the default is a net.
        silence: Without a byte of output. One kernel can take a minute of silent code generation.
        log_bytes: On disk, at any time; at least 4096.
        memory_bytes: Resident memory of the tree, shared pages counted once, looked at every half second; where the job
            has a control group with a memory controller, the kernel holds it to that too. Not guaranteed without one: a
            quicker growth is met by the kernel first.
        grace: Between SIGTERM and SIGKILL.
        cores: What the job was admitted with. Told to the compiler by its toolchain; here its weight follows.
        background: Nobody waits for it: SCHED_IDLE and idle I/O instead of SCHED_BATCH and last in best effort.
        line_rate: Ordinary lines passed to `on_line`, per second; in a flood the others are only in the log.
        marks: A line with one of these texts in it is passed on beyond that rate (up to 500 per second).
    """

    total: float | None = 7200.0
    silence: float | None = 1800.0
    log_bytes: int = 16 * 1024 * 1024
    memory_bytes: int | None = None
    grace: float = 5.0
    cores: int = 1
    background: bool = False
    line_rate: float = 50.0
    marks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could only be a mistake.

        Raises:
            ValueError: A limit that is zero or negative, or a log too small to hold its own marks.
        """
        for name in ("total", "silence", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be more than 0, or None for no limit")
        if self.log_bytes < _SMALLEST_LOG:
            raise ValueError(f"log_bytes is {self.log_bytes}; it must be at least {_SMALLEST_LOG}")
        if self.grace < 0:
            raise ValueError(f"grace is {self.grace}; it must not be negative")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job ended.

    Args:
        status: ``exited`` by itself, whatever its exit status; ``signalled`` by somebody else; ``timed-out`` and
            ``silent`` by its limits; ``out-of-memory`` by its limit or by the kernel; ``cancelled`` by a StopSignal;
            ``lost``: it could not be started, or its supervisor was killed.
        exit_status: Of the command, where it exited, even after it was told to stop.
        signal: The signal that ended the command, where one did.
        seconds: The command's own time, without the supervisor's start.
        cpu_seconds: User and system time of the tree, as far as its processes were waited for; 0 when lost.
        peak_memory: Bytes: the larger of the largest sampled sum over the tree and the largest single process. At least
            some 10 MB: the supervisor's fork counts.
        log_tail: The last 16 KiB as text, without colours and control characters.
        log_path: Where the log was to be; it may be missing when the disk was full.
        log_truncated: Something is missing from the log.
        detail: One sentence on why, for people; may be empty.
        yielding: Which ways of stepping back held: cgroup (a weight of its own), memory-limit (that group's, kept by
            the kernel), nice, sched-batch or sched-idle, ioprio, oom-score, autogroup.
        oom_kills: How often the kernel killed for memory meanwhile in the control group (or, without a counter there,
            on the host). With a failed exit status: perhaps one of the command's children.
    """

    status: Status
    exit_status: int | None
    signal: int | None
    seconds: float
    cpu_seconds: float
    peak_memory: int
    log_tail: str
    log_path: Path
    log_truncated: bool
    detail: str
    yielding: tuple[str, ...] = ()
    oom_kills: int = 0

    @property
    def succeeded(self) -> bool:
        """The command ended by itself with exit status 0."""
        return self.status == "exited" and self.exit_status == 0
