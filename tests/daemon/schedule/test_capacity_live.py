"""The same on the kernel's own control groups: a child of this process's group, with real limits, a reader in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.schedule.capacity.cgroups import Group, Groups
from mlc_jitd.schedule.host import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = """
import json, os, sys
for group in sys.argv[1:]:
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
from mlc_jitd.schedule.capacity import read
c = read()
print(json.dumps([c.cores, c.memory_total, c.memory_available, c.memory_reserve, c.notes]))
"""

Child = tuple[Path, int]


@pytest.fixture
def child() -> Iterator[Callable[[str, str], Group]]:
    """Makes a child of the own group of a controller, and one within it; removed afterwards."""
    if not sys.platform.startswith("linux"):
        pytest.skip("control groups are Linux")
    made: list[Path] = []

    def make(controller: str, probe: str) -> Group:
        for own in Groups(Path("/")).of(controller)[:1]:
            outer = own.folder / f"mlc-jitd-test-{os.getpid()}"
            try:
                outer.mkdir()
                made.append(outer)
                (outer / "inner").mkdir()
                made.append(outer / "inner")
            except OSError as error:
                pytest.skip(f"no group can be made below {own.folder}: {error}")
            if not (outer / probe).exists():
                pytest.skip(f"the {controller} controller is not enabled below {own.folder}")
            return Group(own.version, outer, outer.name)
        pytest.skip(f"no {controller} controller is mounted")

    yield make
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()
    assert not any(folder.exists() for folder in made)


def put(folder: Path, name: str, value: str) -> None:
    try:
        (folder / name).write_text(value)
    except OSError as error:
        pytest.skip(f"{folder / name} can't be set: {error}")


def read_inside(*groups: Path) -> tuple[float, int, int, int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, groups)], capture_output=True, text=True, timeout=40, check=False
    )
    if "Error: [Errno" in done.stderr:
        pytest.skip(f"the process can't be moved: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    cores, total, available, kept, notes = json.loads(done.stdout)
    return cores, total, available, kept, notes


def test_half_a_core_set_on_the_parent(child: Callable[[str, str], Group]) -> None:
    group = child("cpu", "cpu.cfs_quota_us" if Path("/sys/fs/cgroup/cpu").exists() else "cpu.max")
    if group.version == 1:
        put(group.folder, "cpu.cfs_period_us", "100000")
        put(group.folder, "cpu.cfs_quota_us", "50000")
    else:
        put(group.folder, "cpu.max", "50000 100000")
    cores, *_, notes = read_inside(group.folder / "inner")
    assert cores == 0.5, notes


def test_a_memory_limit_set_on_the_parent(child: Callable[[str, str], Group]) -> None:
    group = child("memory", "memory.limit_in_bytes" if Path("/sys/fs/cgroup/memory").exists() else "memory.max")
    put(group.folder, "memory.limit_in_bytes" if group.version == 1 else "memory.max", str(GIB))
    _, total, available, kept, notes = read_inside(group.folder / "inner")
    assert total + kept == GIB, notes
    assert GIB - 200 * MIB < available + kept <= GIB, notes


def test_affinity_of_one_core() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    one = min(os.sched_getaffinity(0))
    script = (
        f"import os; os.sched_setaffinity(0, {{{one}}})\n"
        "from mlc_jitd.schedule.capacity import read; print(read().cores)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40, check=True)
    assert 0 < float(done.stdout) <= 1
