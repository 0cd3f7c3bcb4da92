"""What a host has, as values. Here: plain data that the reader fills and the queue weighs. Not here: reading, deciding.

Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Something on which one process can open a context: a whole GPU, or one MIG partition of it.

    Attributes:
        uuid: What ``CUDA_VISIBLE_DEVICES`` accepts (``GPU-...``, ``MIG-...``).
        memory_free: Free now, whoever uses the rest.
    """

    uuid: str
    name: str
    memory_total: int
    memory_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as its driver describes it.

    Attributes:
        index: NVML's ordinal, which is not CUDA's under ``CUDA_VISIBLE_DEVICES``.
        compute_capability: ``(8, 6)`` for sm_86; ``None`` where there is no such thing.
        driver: Driver version, empty where unknown.
        integrated: It shares the host's memory, so its figures are the host's.
        partitions: MIG devices; when there are any, the GPU itself can't be opened.
    """

    index: int
    uuid: str
    model: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int] | None = None
    driver: str = ""
    integrated: bool = False
    partitions: tuple[Device, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """What can be opened: the partitions, or else the GPU."""
        if self.partitions:
            return self.partitions
        whole = Device(uuid=self.uuid, name=self.model, memory_total=self.memory_total, memory_free=self.memory_free)
        return (whole,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What compiles on this host may use, at one moment.

    Attributes:
        cores: Usable cores: affinity and every CPU quota that holds; 0.5 is a quota of 50 % on one core.
        memory_total: The least of the host's memory and every cgroup limit that holds, less the reserve. A job that
            needs more can never run here.
        memory_available: What is free of that now, less the reserve; never negative. What running compiles have
            touched is no longer in it, what they have not touched yet still is.
        memory_reserve: What is kept for everybody else.
        notes: Where each figure came from, and what could not be read; for people.
    """

    cores: float
    memory_total: int
    memory_available: int
    memory_reserve: int = 0
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device that can be opened, in the driver's order."""
        return tuple(device for gpu in self.gpus for device in gpu.devices)
