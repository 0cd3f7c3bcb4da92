"""Cores, memory and GPUs, and how many compiles follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.doctor.finding import Finding, size
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.jobs import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient
    from mlc_jitd.schedule.host import Capacity

NVIDIA = Path("/dev/nvidiactl")
DEFAULTS = Settings()


def cores(patient: Patient) -> Iterator[Finding]:
    """How many may be used, and how many compiles at a time that makes."""
    host = capacity.read()
    settings = Settings(
        jobs=patient.settings.jobs or None,
        cores_per_job=patient.settings.cores_per_job or None,
        max_queued=patient.settings.max_queued,
    )
    found = slots(host, settings)
    each = f"{found.cores} core{'s'[: found.cores != 1]}"
    yield Finding(
        check="cores",
        level="ok" if host.cores >= 1 else "note",
        found=_notes(host, "cores"),
        follows=f"{found.jobs} compile{'s'[: found.jobs != 1]} at a time, {each} each; "
        f"{settings.max_queued} may wait in the queue",
        remedy="" if host.cores >= 1 else "Compiles will be slow: raise the CPU quota, or copy a filled cache here.",
        facts={"cores": host.cores, "jobs": found.jobs, "cores_per_job": found.cores},
    )


def memory(_patient: Patient) -> Iterator[Finding]:
    """What compiles may take, and whether one fits."""
    host = capacity.read()
    facts = {
        "total": host.memory_total,
        "available": host.memory_available,
        "reserve": host.memory_reserve,
        "unknown": DEFAULTS.unknown_memory,
    }
    found = (
        f"{size(host.memory_available)} of {size(host.memory_total)} are free for compiles: {_notes(host, 'memory')}"
    )
    least = size(DEFAULTS.unknown_least)
    if host.memory_total < DEFAULTS.unknown_least:
        yield Finding(
            check="memory",
            level="problem",
            found=found,
            follows="a compile takes 0.6 to 0.8 GiB and may be killed here",
            remedy=f"Give this host or container at least {least} beside the reserve, or compile elsewhere.",
            facts=facts,
        )
    elif host.memory_available < DEFAULTS.unknown_least:
        yield Finding(
            check="memory",
            level="note",
            found=found,
            follows=f"a compile waits up to {DEFAULTS.patience:.0f} s for memory, then starts all the same",
            remedy=f"Free memory: {least} should be there for one compile.",
            facts=facts,
        )
    else:
        follows = (
            f"a compile of unknown need is taken to need {size(min(DEFAULTS.unknown_memory, host.memory_total))}, and "
            "one such runs at a time"
        )
        yield Finding(check="memory", level="ok", found=found, follows=follows, facts=facts)


def gpus(_patient: Patient) -> Iterator[Finding]:
    """The GPUs that a compile may have to open."""
    host = capacity.read()
    models = [f"{gpu.model} ({size(gpu.memory_free)} of {size(gpu.memory_total)} free)" for gpu in host.gpus]
    unseen = not models and NVIDIA.exists()
    yield Finding(
        check="gpus",
        level="note" if unseen else "ok",
        found="; ".join([*models, _notes(host, "gpus")]),
        follows="admission does not know what is free on the GPUs" if unseen else "",
        remedy="Install it in the daemon's environment: pip install nvidia-ml-py." if unseen else "",
        facts={"gpus": [{"uuid": gpu.uuid, "model": gpu.model, "memory": gpu.memory_total} for gpu in host.gpus]},
    )


def _notes(host: Capacity, what: str) -> str:
    """What the reader noted of one thing."""
    return "; ".join(note.removeprefix(f"{what}: ") for note in host.notes if note.startswith(f"{what}: "))
