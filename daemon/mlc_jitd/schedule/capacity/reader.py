"""Cores, memory and GPUs put together into one `Capacity`.

Here: which figures hold and what is kept in reserve. Not here: finding control groups (`cgroups`), asking drivers
(`gpus`), deciding who runs (`queue`).

`os.process_cpu_count()` and loky look at affinity alone or at the own group alone; both missed a 50 % quota
(docs/scheduling.md).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mlc_jitd.schedule.capacity import gpus as devices
from mlc_jitd.schedule.capacity.cgroups import Groups, cpu_list, cpu_quota, cpu_set, memory_limit
from mlc_jitd.schedule.host import GIB, KIB, MIB, Capacity

LEAST_RESERVE = 512 * MIB
MOST_RESERVE = 4 * GIB
ASSUMED_MEMORY = 4 * GIB
"""Of a host that does not say: enough for one compile at a time (measured peaks are 0.6 to 0.8 GB)."""


def read(root: Path = Path("/")) -> Capacity:
    """What compiles may use on this host now.

    Takes about a millisecond without an NVIDIA driver. Never raises: what can't be read is left out and noted.

    Args:
        root: Where ``proc`` and ``sys/fs/cgroup`` are; tests build such trees. GPUs are not under it.
    """
    groups = Groups(root)
    cores, core_notes = _cores(root, groups)
    total, free, memory_notes = _memory(root, groups)
    kept = reserve(total)
    gpus, gpu_notes = devices.gpus(host_total=total, host_free=free)
    return Capacity(
        cores=cores,
        memory_total=total - kept,
        memory_available=max(0, free - kept),
        memory_reserve=kept,
        gpus=gpus,
        notes=(*core_notes, *memory_notes, f"memory: {_mib(kept)} of it kept in reserve", *gpu_notes),
    )


def reserve(total: int) -> int:
    """What is kept for everybody else, in bytes: 5 % of the total, at least 512 MiB, at most 4 GiB or a quarter."""
    return min(max(LEAST_RESERVE, total // 20), MOST_RESERVE, total // 4)


def _cores(root: Path, groups: Groups) -> tuple[float, tuple[str, ...]]:
    cpus, source = _affinity(root)
    cores = float(max(1, len(cpus)))
    for group in groups.of("cpuset"):
        allowed = cpu_set(group)
        # A set that has no CPU of ours is stale or of another namespace: the affinity is what the kernel obeys.
        if allowed is not None and 0 < len(allowed & cpus) < cores:
            cores, source = float(len(allowed & cpus)), f"the cpuset of group {group.name}"
    for group in groups.of("cpu"):
        quota = cpu_quota(group)
        if quota is not None and quota < cores:
            cores, source = quota, f"the CPU quota of group {group.name}"
    return cores, (f"cores: {cores:g} from {source}",)


def _affinity(root: Path) -> tuple[frozenset[int], str]:
    for line in _lines(root / "proc/self/status"):
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list" and cpu_list(value):
            return cpu_list(value), "the affinity"
    if root == Path("/"):
        return frozenset(range(os.cpu_count() or 1)), "the number of CPUs, affinity unknown"
    return frozenset((0,)), "nothing that could be read"


def _memory(root: Path, groups: Groups) -> tuple[int, int, tuple[str, ...]]:
    total, free, source = _physical(root)
    total_source = free_source = source
    for group in groups.of("memory"):
        allowed = memory_limit(group)
        if allowed is None:
            continue
        if allowed.limit < total:
            total, total_source = allowed.limit, f"the limit of group {group.name}"
        if allowed.free < free:
            free, free_source = allowed.free, f"what group {group.name} has left"
    free = min(free, total)
    return total, free, (f"memory: {_mib(total)} from {total_source}, {_mib(free)} free from {free_source}",)


def _physical(root: Path) -> tuple[int, int, str]:
    figures: dict[str, int] = {}
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        value = rest.split()[:1]
        if value and value[0].isdigit():
            figures[name] = int(value[0]) * KIB
    total, free = figures.get("MemTotal", 0), figures.get("MemAvailable")
    if total and free is not None:
        return total, free, "/proc/meminfo"
    if total:  # a kernel older than 3.14, or a sandbox that fakes the file
        rough = sum(figures.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
        return total, min(total, rough), "/proc/meminfo, without MemAvailable"
    if root == Path("/"):
        import psutil  # noqa: PLC0415 - only where there is no /proc

        with contextlib.suppress(Exception):
            memory = psutil.virtual_memory()
            return memory.total, memory.available, "the kernel's statistics"
    return ASSUMED_MEMORY, ASSUMED_MEMORY, "an assumption, nothing could be read"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
