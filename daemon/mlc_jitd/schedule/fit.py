"""Whether one job fits beside what runs, and whether it ever can. Pure arithmetic on values; not here: order.

The memory rule: a running job holds its whole claim until it is finished. What it has touched is already missing from
the host's available memory, so only the rest of the claim is subtracted; where nobody says what a job uses, it counts
as having touched nothing. That errs towards waiting, never towards too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jitd.schedule.jobs import Blocked, Demand, Grant, Refused, Running, Settings, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlc_jitd.schedule.host import Capacity, Device

MOST_CORES = 4
"""Cores per job where nobody says otherwise; beyond, the steps of a compile that use one core dominate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left beside the running jobs.

    Attributes:
        background: How many of the running ones nobody waits for.
        unknown: How many of the running ones are of unknown need.
        unknown_awaited: How many of those somebody waits for.
        memory: Bytes that nobody holds or uses; may be negative when others on the host took more.
        taken: Devices that a running job holds.
    """

    slots: Slots
    running: int
    background: int
    unknown: int
    unknown_awaited: int
    alone: bool
    memory: int
    taken: frozenset[str]

    @property
    def idle(self) -> bool:
        """Nothing of ours runs."""
        return self.running == 0


def slots(capacity: Capacity, settings: Settings) -> Slots:
    """How many compiles fit the cores; at least one, with at least one core."""
    cores = capacity.cores
    if settings.jobs is not None:
        jobs = max(1, settings.jobs)
        return Slots(jobs, max(1, settings.cores_per_job or int(cores // jobs)))
    each = max(1, settings.cores_per_job or min(MOST_CORES, int(cores)))
    jobs = max(1, int(cores // each))
    return Slots(jobs, max(1, settings.cores_per_job or int(cores // jobs)))


def room(capacity: Capacity, settings: Settings, running: Iterable[Running], used: Mapping[str, int]) -> Room:
    """What is left; ``used`` is what running jobs have touched, in bytes, as far as it is known."""
    running = tuple(running)
    untouched = sum(max(0, each.grant.memory - used.get(each.demand.job, 0)) for each in running)
    held = sum(max(each.grant.memory, used.get(each.demand.job, 0)) for each in running)
    return Room(
        slots=slots(capacity, settings),
        running=len(running),
        background=sum(not each.demand.interactive for each in running),
        unknown=sum(each.demand.memory is None for each in running),
        unknown_awaited=sum(each.demand.memory is None and each.demand.interactive for each in running),
        alone=any(each.demand.exclusive for each in running),
        memory=min(capacity.memory_available - untouched, capacity.memory_total - held),
        taken=frozenset(each.grant.device for each in running if each.grant.device is not None),
    )


def never(demand: Demand, capacity: Capacity, settings: Settings) -> Refused | None:
    """Why the job can't run on this host even with nothing beside it, or ``None`` if it can."""
    if demand.memory is not None and demand.memory > capacity.memory_total:
        return Refused(job=demand.job, reason="memory", needed=demand.memory, usable=capacity.memory_total)
    if not demand.gpu:
        return None
    suited = _suited(demand, capacity)
    if not suited:
        return Refused(job=demand.job, reason="no-gpu", needed=0, usable=0)
    largest = max(device.memory_total for device in suited)
    if context(demand, settings) > largest:
        return Refused(job=demand.job, reason="gpu-memory", needed=context(demand, settings), usable=largest)
    return None


def large_enough(demand: Demand, capacity: Capacity, settings: Settings) -> frozenset[str]:
    """UUIDs of the devices on which the job could run if they were empty."""
    need = context(demand, settings)
    return frozenset(device.uuid for device in _suited(demand, capacity) if device.memory_total >= need)


ASSUMED_OF_10 = 7
"""The tenths of a small host that a job of an unknown kind is taken for: this daemon and others have some of it."""


def claim(demand: Demand, capacity: Capacity, settings: Settings) -> int:
    """Bytes that the job needs, as far as anybody knows. An assumption is no more than can be free on the host."""
    if demand.memory is not None:
        return demand.memory
    return min(settings.unknown_memory, capacity.memory_total * ASSUMED_OF_10 // 10)


def context(demand: Demand, settings: Settings) -> int:
    """Bytes that the job needs on a device."""
    return settings.gpu_context if demand.gpu_memory is None else demand.gpu_memory


def fit(
    demand: Demand,
    left: Room,
    capacity: Capacity,
    settings: Settings,
    *,
    withheld: frozenset[str] = frozenset(),
    without_memory: bool = False,
    without_gpu: bool = False,
) -> Grant | Blocked:
    """The grant, or the first thing that is in the way.

    Args:
        demand: A job that `never` lets pass.
        left: What is left beside the running jobs.
        capacity: The host.
        settings: The administrator's.
        withheld: Devices kept for a job that goes first.
        without_memory: Start on an idle host although others use what it needs.
        without_gpu: Open a device that none of ours holds although others fill it.
    """
    if left.alone or (demand.exclusive and not left.idle):
        return "exclusive"
    # Those that nobody waits for step back from one that somebody does; memory is held for all of them.
    beside = demand.interactive and left.background == left.running
    if left.running >= left.slots.jobs + beside:
        return "slots"
    # What nobody waits for keeps nobody waiting; on a host that knows no need yet, pre-warming would.
    unknown = left.unknown_awaited if demand.interactive else left.unknown
    if demand.memory is None and unknown >= max(1, settings.unknown_at_once):
        return "unknown"
    short: list[str] = []
    device = None
    if demand.gpu:
        device = _roomiest(demand, left, capacity, settings, withheld, anyway=without_gpu)
        if device is None:
            return "gpu"
        if device.memory_free < context(demand, settings):
            short.append("gpu")
    need = claim(demand, capacity, settings)
    least = min(need, settings.unknown_least) if demand.memory is None and left.idle else need
    if least > left.memory:
        if not (without_memory and left.idle):
            return "memory"
        short.append("memory")
    else:
        need = left.memory if demand.exclusive else min(need, left.memory)
    return Grant(
        job=demand.job,
        cores=left.slots.cores,
        memory=need,
        device=None if device is None else device.uuid,
        short=tuple(each for each in ("memory", "gpu") if each in short),
    )


def _suited(demand: Demand, capacity: Capacity) -> tuple[Device, ...]:
    return tuple(each for each in capacity.devices if not demand.devices or each.uuid in demand.devices)


def _roomiest(
    demand: Demand, left: Room, capacity: Capacity, settings: Settings, withheld: frozenset[str], *, anyway: bool
) -> Device | None:
    need = context(demand, settings)
    open_to = large_enough(demand, capacity, settings) - left.taken - withheld
    free = [d for d in capacity.devices if d.uuid in open_to and (anyway or d.memory_free >= need)]
    return max(free, key=lambda d: d.memory_free, default=None)
