"""How compiles step back behind serving processes here: not what was asked of the kernel, but what it granted."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.build import Limits, run
from mlc_jitd.build.stop import StopSignal
from mlc_jitd.doctor.finding import Finding
from mlc_jitd.toolchains.base import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
CGROUPS = Path("/sys/fs/cgroup")
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


def delegation(_patient: Patient) -> Iterator[Finding]:
    """Whether this process may make control groups of its own."""
    if not sys.platform.startswith("linux"):
        return
    folder, why = delegated()
    yield Finding(
        check="cgroup",
        level="ok",
        found=f"{folder} is delegated" if folder is not None else f"no control group is delegated: {why}",
        follows="" if folder is not None else "compiles step back by nice and its like, not by weights of their own",
        facts={"delegated": str(folder or "")},
    )


def autogroups() -> bool:
    """Whether the kernel weighs sessions against each other, so that nice alone counts only inside one."""
    try:
        return AUTOGROUP.read_text().strip() == "1"
    except OSError:
        return False


def delegated() -> tuple[Path | None, str]:
    """The own group of the unified hierarchy, if this process may make children of it with weights and limits."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return None, f"/proc/self/cgroup: {error.strerror}"
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None or not (CGROUPS / "cgroup.controllers").exists():
        return None, "there is no unified hierarchy (cgroup v2) here"
    folder = CGROUPS / own.lstrip("/")
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.subtree_control", os.W_OK):
        return None, f"{folder} can't be written"
    controllers = (folder / "cgroup.controllers").read_text().split()
    missing = {"cpu", "memory"} - set(controllers)
    return (None, f"{folder} has no {' and '.join(sorted(missing))} controller") if missing else (folder, "")


def _follows(missing: list[str]) -> str:
    if "autogroup" in missing:
        return "sched_autogroup weighs each session as one: a compile gets as much as a whole serving process"
    return "a compile competes with serving processes" if missing else "serving processes go first"


def _ignore(_line: str) -> None:
    return
