"""How compiles step back behind serving processes here: not what was asked of the kernel, but what it granted."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.build import Limits, cgroup, run
from mlc_jitd.build.stop import StopSignal
from mlc_jitd.doctor.finding import Finding
from mlc_jitd.schedule.capacity.cgroups import Groups
from mlc_jitd.toolchains.base import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

ROOT = Path("/")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
WANTED = ("nice", "sched-batch", "ioprio", "autogroup")
TRIED_SECONDS = 0.7
"""Long enough for the supervisor's first look at the session, when it lowers the autogroup."""


def yielding(_patient: Patient) -> Iterator[Finding]:
    """Run a command the way a compile is run, and see what held."""
    with tempfile.TemporaryDirectory() as folder:
        command = Command(
            (sys.executable, "-I", "-S", "-c", f"import time; time.sleep({TRIED_SECONDS})"), (), Path("/")
        )
        outcome = run(command, Limits(total=20), log=Path(folder) / "log", on_line=_ignore, stop=StopSignal())
    if not outcome.succeeded:
        yield Finding(
            check="yielding",
            level="problem",
            found=f"a command that does nothing could not be run: {outcome.status} {outcome.detail}".rstrip(),
            follows="no compile can be run either",
            remedy="See what the host forbids (ulimit -u, seccomp, a sandbox without /proc), and please report this.",
        )
        return
    held = outcome.yielding
    needed = [each for each in WANTED if each != "autogroup" or autogroups()]
    missing = [each for each in needed if each not in held]
    if not sys.platform.startswith("linux"):
        missing = [each for each in missing if each == "nice"]
    yield Finding(
        check="yielding",
        level="note" if missing else "ok",
        found=f"compiles run with {', '.join(held) or 'nothing lowered'}"
        + (f"; {', '.join(missing)} did not hold" if missing else ""),
        follows=_follows(missing),
        remedy="Run the daemon where it may lower itself, or keep compiles few: MLC_JITD_JOBS=1." if missing else "",
        facts={"held": list(held), "missing": missing, "autogroup_enabled": autogroups()},
    )


def delegation(patient: Patient) -> Iterator[Finding]:
    """Where compiles of a daemon that is started from here would get control groups of their own."""
    if not sys.platform.startswith("linux"):
        return
    setting = patient.settings.cgroup
    chain = Groups(ROOT).of("cpu")
    own = list({group.version: group for group in reversed(chain)}.values())  # of each version, not those above it
    own.sort(key=lambda group: group.version)
    places, why = cgroup.survey(setting, own)
    versions = [group.version for group in own]
    mounted = "no control groups" if not versions else f"cgroup v{' and v'.join(map(str, versions))}"
    if setting == "off":
        found = f"{mounted}; switched off for compiles (MLC_JITD_CGROUP=off)"
    elif places:
        found = f"{mounted}; a daemon started from here may divide {' and '.join(map(_described, places))}"
    else:
        found = f"{mounted}; a daemon started from here may divide none: {why}"
    yield Finding(
        check="cgroup",
        level="note" if why and setting not in {"auto", "own", "off"} else "ok",
        found=found,
        follows=_weighed(places, setting),
        remedy=f"Correct or unset MLC_JITD_CGROUP: {why}." if why and setting not in {"auto", "own", "off"} else "",
        facts={
            "versions": versions,
            "delegated": [str(place.folder) for place in places],
            "controllers": sorted({name for place in places for name in place.controllers}),
            "why": why,
        },
    )


def _described(place: cgroup.Place) -> str:
    limits = "weights and memory limits" if "memory" in place.controllers else "weights, no memory limits"
    return f"{place.folder} ({limits if 'cpu' in place.controllers else 'memory limits, no weights'})"


def _weighed(places: tuple[cgroup.Place, ...], setting: str) -> str:
    if any("cpu" in place.controllers for place in places):
        return f"a compile weighs {cgroup.weight_of(1)} of 100 for each of its cores"
    follows = "compiles step back by nice and its like, not by weights of their own"
    return follows if setting == "off" else f"{follows}; a daemon that systemd starts has a group for itself"


def autogroups() -> bool:
    """Whether the kernel weighs sessions against each other, so that nice alone counts only inside one."""
    try:
        return AUTOGROUP.read_text().strip() == "1"
    except OSError:
        return False


def _follows(missing: list[str]) -> str:
    if "autogroup" in missing:
        return "sched_autogroup weighs each session as one: a compile gets as much as a whole serving process"
    return "a compile competes with serving processes" if missing else "serving processes go first"


def _ignore(_line: str) -> None:
    return
