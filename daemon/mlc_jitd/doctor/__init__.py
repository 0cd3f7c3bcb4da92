"""``mlc-jitd doctor``: what this host has, what follows, and what to do about what is wrong. Changes nothing.

A check is a function that looks at one thing and yields what it found; a new one is a line in ``CHECKS``. People run
``mlc-jit doctor``, which shows the JSON that this prints. No daemon is needed, and none is started.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from typing import TYPE_CHECKING

from mlc_jit._version import __version__
from mlc_jitd.doctor import compilers, daemon, host, kernels, leftovers, limits, places, service, yielding
from mlc_jitd.doctor.finding import Finding, Patient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["CHECKS", "Finding", "Patient", "examine", "main"]

CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    places.troubles,
    places.settings,
    host.cores,
    host.memory,
    host.gpus,
    limits.limits,
    limits.watches,
    yielding.yielding,
    yielding.delegation,
    compilers.toolchain,
    compilers.linker,
    kernels.kernels,
    places.home,
    places.layers,
    places.locking,
    places.disk,
    places.runtime,
    service.service,
    daemon.daemon,
    service.locks,
    leftovers.leftovers,
)


def examine(patient: Patient, checks: Iterable[Callable[[Patient], Iterator[Finding]]] = CHECKS) -> list[Finding]:
    """Every check's findings, in order; a check that fails is a finding too."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(patient)
        except Exception as error:  # noqa: BLE001 - the others still have something to say
            found.append(
                Finding(
                    check=check.__name__,
                    level="problem",
                    found=f"this could not be looked at: {type(error).__name__}: {error}",
                    remedy="Please report this.",
                )
            )
    return found


def main() -> int:
    """Print everything as JSON; 1 if there is a problem."""
    found = examine(Patient.here())
    report = {
        "version": __version__,
        "python": sys.executable,
        "python_version": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "findings": [dataclasses.asdict(each) for each in found],
    }
    print(json.dumps(report, indent=1))  # noqa: T201 - it is the interface
    return int(any(each.level == "problem" for each in found))
