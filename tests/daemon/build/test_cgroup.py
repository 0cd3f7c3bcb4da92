"""Control groups for jobs: the path work on built trees, and for real where this host lets us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from mlc_jit.errors import RequestError
from mlc_jitd.build import JobGroups, Kind, Limits, StopSignal, WarmCompilers, cgroup
from mlc_jitd.build.supervisor import tree
from mlc_jitd.config import Settings
from mlc_jitd.schedule.capacity.cgroups import Groups
from mlc_jitd.toolchains.base import WARM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bench

ME = str(os.getpid())


@dataclass(frozen=True)
class Own:
    version: Literal[1, 2]
    folder: Path


def v2(folder: Path, *, procs: str = ME, controllers: str = "cpuset cpu io memory pids") -> Own:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text(procs)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text("")
    return Own(2, folder)


def v1(folder: Path, *files: str, procs: str = f"1\n{ME}\n") -> Own:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text(procs)
    for name in files:
        (folder / name).write_text("1024")
    return Own(1, folder)


def values(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(autouse=True)
def folders_of_a_built_tree_go_with_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a control group file system: its own files keep no folder from being removed."""
    rmdir = Path.rmdir

    def remove(folder: Path) -> None:
        if "cgroup" not in folder.parts[:4]:
            for file in folder.iterdir():
                if file.is_file():
                    file.unlink()
        rmdir(folder)

    monkeypatch.setattr(Path, "rmdir", remove)


# --- version 2 ------------------------------------------------------------------------------------------------------


def test_the_own_group_is_divided_and_the_daemon_moves_into_a_leaf(tmp_path: Path) -> None:
    own = v2(tmp_path / "own")
    groups = JobGroups.open("auto", [own])
    assert groups.places == (cgroup.Place(own.folder, 2, frozenset({"cpu", "memory"})),)
    assert (groups.why, (own.folder / "cgroup.subtree_control").read_text()) == ("", "+memory")
    assert (own.folder / cgroup.LEAF / "cgroup.procs").read_text() == ME
    assert [child.name for child in own.folder.iterdir() if child.is_dir()] == [cgroup.LEAF], "the proof is removed"


@pytest.mark.parametrize(
    ("cores", "background", "memory", "expected", "holds"),
    [
        (1, False, None, {"cpu.weight": "10"}, ("cgroup",)),
        (4, False, None, {"cpu.weight": "40"}, ("cgroup",)),
        (64, False, None, {"cpu.weight": "40"}, ("cgroup",)),
        (4, True, None, {"cpu.idle": "1"}, ("cgroup",)),
        (
            2,
            False,
            1 << 30,
            {"cpu.weight": "20", "memory.max": "1073741824", "memory.oom.group": "1"},
            ("cgroup", "memory-limit"),
        ),
    ],
)
def test_a_job_gets_a_weight_and_a_limit(
    tmp_path: Path, cores: int, background: bool, memory: int | None, expected: dict[str, str], holds: tuple[str, ...]
) -> None:
    groups = JobGroups.open("auto", [v2(tmp_path / "own")])
    group = groups.make(cores=cores, background=background, memory=memory)
    other = groups.make(cores=cores, background=background, memory=memory)
    assert group is not None
    assert other is not None
    ((folder, held),) = group.entries
    assert (values(folder), held) == (expected, holds)
    assert folder != other.entries[0][0]
    group.remove()
    assert not folder.exists()


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_that_somebody_has_come_to_wait_for_gets_the_weight(tmp_path: Path, version: int) -> None:
    own = v2(tmp_path / "own") if version == 2 else v1(tmp_path / "cpu", "cpu.shares")
    group = JobGroups.open("auto", [own]).make(cores=2, background=True, memory=None)
    assert group is not None
    ((folder, _),) = group.entries
    if version == 1:
        (folder / "cpu.shares").touch()  # as the kernel makes it
    group.promote(2)
    weight = {"cpu.weight": "20"} if version == 2 else {"cpu.shares": "204"}
    assert values(folder) == {"cpu.idle": "0", **weight}


def test_without_a_memory_controller_the_weight_remains(tmp_path: Path) -> None:
    groups = JobGroups.open("auto", [v2(tmp_path / "own", controllers="cpu")])
    group = groups.make(cores=1, background=False, memory=1 << 30)
    assert group is not None
    assert group.entries[0][1] == ("cgroup",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"procs": f"{ME}\n1\n"}, "has other processes in it"),
        ({"procs": "1\n"}, "is not this process's own group"),
        ({"controllers": "memory pids"}, "has no cpu controller"),
    ],
)
def test_a_group_that_is_not_ours_alone_is_left_as_it_is(tmp_path: Path, change: dict[str, str], why: str) -> None:
    own = v2(tmp_path / "own", **change)
    before = values(own.folder)
    groups = JobGroups.open("auto", [own])
    assert (groups.places, groups.make(cores=1, background=False, memory=None)) == ((), None)
    assert why in groups.why
    assert (values(own.folder), len(list(own.folder.iterdir()))) == (before, 3)


def test_what_systemd_did_not_delegate_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = v2(tmp_path / "mlc-jitd.service")
    monkeypatch.setattr(cgroup, "_marked", lambda _: False)
    assert "nothing says that systemd delegates" in JobGroups.open("auto", [own]).why
    assert not (own.folder / cgroup.LEAF).exists()
    assert JobGroups.open("own", [own]).places
    monkeypatch.setattr(cgroup, "_marked", lambda folder: folder == own.folder)
    assert JobGroups.open("auto", [own]).places


def test_controllers_that_are_refused_bring_the_daemon_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = v2(tmp_path / "own")
    written = []
    write = cgroup._write

    def refuse(file: Path, value: object) -> None:
        written.append((file.parent.name, file.name, str(value)))
        if file.name == "cgroup.subtree_control":
            raise OSError(16, "Device or resource busy", str(file))
        write(file, value)

    monkeypatch.setattr(cgroup, "_write", refuse)
    groups = JobGroups.open("auto", [own])
    assert groups.places == ()
    assert "Device or resource busy" in groups.why
    assert written[-1] == ("own", "cgroup.procs", ME)


# --- version 1, and folders named on purpose ------------------------------------------------------------------------


def test_version_1_takes_shares_under_the_own_group(tmp_path: Path) -> None:
    own = v1(tmp_path / "cpu", "cpu.shares")
    groups = JobGroups.open("auto", [own])
    group = groups.make(cores=2, background=False, memory=1 << 30)
    assert group is not None
    ((folder, held),) = group.entries
    assert (folder.parent, values(folder), held) == (own.folder, {"cpu.shares": "204"}, ("cgroup",))
    assert values(own.folder)["cpu.shares"] == "1024"


def test_the_first_group_that_can_be_divided_serves(tmp_path: Path) -> None:
    unified, cpu = v2(tmp_path / "unified", controllers="hugetlb"), v1(tmp_path / "cpu", "cpu.shares")
    groups = JobGroups.open("auto", [unified, cpu, v1(tmp_path / "more", "cpu.shares")])
    assert [place.folder for place in groups.places] == [cpu.folder]


def test_a_kernel_without_cpu_idle_gives_background_the_least_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cgroup._write

    def without(file: Path, value: object) -> None:
        if file.name == "cpu.idle":
            raise PermissionError(13, "Permission denied", str(file))
        write(file, value)

    monkeypatch.setattr(cgroup, "_write", without)
    old = JobGroups.open("auto", [v1(tmp_path / "cpu", "cpu.shares")]).make(cores=1, background=True, memory=None)
    new = JobGroups.open("auto", [v2(tmp_path / "own")]).make(cores=1, background=True, memory=None)
    assert old is not None
    assert new is not None
    assert (values(old.entries[0][0]), values(new.entries[0][0])) == ({"cpu.shares": "2"}, {"cpu.weight": "1"})


def test_named_folders_of_version_1_give_both_weight_and_limit(tmp_path: Path) -> None:
    cpu, memory = v1(tmp_path / "cpu", "cpu.shares"), v1(tmp_path / "memory", "memory.limit_in_bytes")
    groups = JobGroups.open(f"{cpu.folder}:{memory.folder}", [])
    group = groups.make(cores=1, background=False, memory=5 << 20)
    assert group is not None
    assert [(values(folder), held) for folder, held in group.entries] == [
        ({"cpu.shares": "102"}, ("cgroup",)),
        ({"memory.limit_in_bytes": "5242880"}, ("memory-limit",)),
    ]


def test_a_named_folder_of_version_2_that_others_made_needs_no_move(tmp_path: Path) -> None:
    folder = v2(tmp_path / "compiles", procs="").folder
    assert JobGroups.open(str(folder), []).places == (cgroup.Place(folder, 2, frozenset({"cpu", "memory"})),)
    assert not (folder / cgroup.LEAF).exists()


def test_names_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    assert JobGroups.open("off", [v2(tmp_path / "own")]).why == "switched off"
    assert "is no folder" in JobGroups.open(str(tmp_path / "none"), []).why
    assert "is no control group" in JobGroups.open(str(tmp_path), []).why
    assert JobGroups.open("auto", []).why == "no control group for CPU time was found"


def test_leftovers_of_the_dead_are_swept_and_the_living_kept(tmp_path: Path) -> None:
    own = v1(tmp_path / "cpu", "cpu.shares")
    mine = tree.read(os.getpid())
    assert mine is not None
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"{ended.pid}-77.1", f"{ME}-1.3", f"{ME}-{mine.start}.9"):
        (own.folder / f"mlc-jitd.job.{name}").mkdir()
    (own.folder / "somebody.else").mkdir()
    JobGroups.open("auto", [own])
    left = {child.name for child in own.folder.iterdir() if child.is_dir()}
    assert left == {"somebody.else", f"mlc-jitd.job.{ME}-{mine.start}.9"}


def test_a_folder_that_is_taken_back_costs_the_weight_only(bench: Bench, tmp_path: Path) -> None:
    own = v1(tmp_path / "cpu", "cpu.shares")
    groups = JobGroups.open("auto", [own])
    own.folder.rename(tmp_path / "gone")
    assert groups.make(cores=1, background=False, memory=None) is None
    outcome = bench.run(bench.command("true"), groups=groups)
    assert outcome.succeeded
    assert "cgroup" not in outcome.yielding


@pytest.mark.parametrize("text", ["auto", "own", "off", "/sys/fs/cgroup/a", "/a:/b"])
def test_the_setting(text: str) -> None:
    assert Settings.load({"MLC_JITD_CGROUP": text}).cgroup == text
    assert Settings.load({"MLC_JITD_CGROUP": " "}).cgroup == "auto"


@pytest.mark.parametrize("text", ["on", "a/b", "/a:b", "/a:"])
def test_a_setting_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="must be `auto`"):
        Settings.load({"MLC_JITD_CGROUP": text})


# --- for real -------------------------------------------------------------------------------------------------------


@pytest.fixture
def real() -> Iterator[JobGroups]:
    """A group of ours for this test alone, under this process's own; MLC_JITD_TEST_CGROUP names others."""
    setting = os.environ.get("MLC_JITD_TEST_CGROUP", "")
    made: list[Path] = []
    if not setting:
        own = next((group for group in Groups(Path("/")).of("cpu") if group.version == 1), None)
        if own is None or not os.access(own.folder, os.W_OK):
            pytest.skip(
                "no cpu controller of version 1 is writable, and MLC_JITD_TEST_CGROUP names no delegated folder"
            )
        made = [own.folder / f"mlc-jitd-test-{ME}"]
        made[0].mkdir()
        setting = str(made[0])
    groups = JobGroups.open(setting, [])
    try:
        assert groups.places, groups.why
        yield groups
        assert [child for place in groups.places for child in place.folder.glob("mlc-jitd.job.*")] == []
    finally:
        for folder in made:
            for child in folder.iterdir():
                if child.is_dir():
                    child.rmdir()
            folder.rmdir()


def folder_of(groups: JobGroups, controller: str) -> Path:
    found = [place.folder for place in groups.places if controller in place.controllers]
    if not found:
        pytest.skip(f"no {controller} controller is delegated to this test: name one in MLC_JITD_TEST_CGROUP")
    return found[0]


LOOK = """
import os, pathlib, sys
base = pathlib.Path(sys.argv[1])
mine = [g for g in base.glob("mlc-jitd.job.*") if str(os.getpid()) in (g / "cgroup.procs").read_text().split()]
for name in ("cpu.shares", "cpu.weight", "cpu.idle"):
    if (mine[0] / name).exists():
        print(name, (mine[0] / name).read_text().strip())
"""


@pytest.mark.parametrize("background", [False, True])
def test_the_command_is_in_its_group_and_the_group_is_gone_after_it(
    bench: Bench, real: JobGroups, background: bool
) -> None:
    command = bench.command(sys.executable, "-I", "-S", "-c", LOOK, str(folder_of(real, "cpu")))
    outcome = bench.run(command, background=background, groups=real)
    assert outcome.succeeded, outcome.log_tail
    assert outcome.yielding[0] == "cgroup"
    seen = dict(line.split() for line in outcome.log_tail.splitlines())
    if background:
        assert seen.get("cpu.idle", "1") == "1"
    else:
        assert {"102", "10"} & {seen.get("cpu.shares"), seen.get("cpu.weight")}


def test_children_that_leave_the_session_are_in_the_group_too(bench: Bench, real: JobGroups) -> None:
    base = folder_of(real, "cpu")
    script = f"setsid sh -c 'cat {base}/mlc-jitd.job.*/cgroup.procs | wc -l'"
    outcome = bench.run(bench.command("sh", "-c", script), groups=real)
    assert int(outcome.log_tail) >= 2


@pytest.mark.parametrize("status", ["cancelled", "timed-out"])
def test_the_group_of_a_job_that_was_ended_is_removed(bench: Bench, real: JobGroups, status: str) -> None:
    command = bench.command("sh", "-c", "echo begun; sleep 1000 & exec sleep 1000")
    if status == "cancelled":
        outcome = bench.run(command, lambda _: bench.stop.stop("cancelled"), groups=real)
    else:
        outcome = bench.run(command, total=0.3, groups=real)
    assert (outcome.status, outcome.yielding[0]) == (status, "cgroup")


def test_what_a_killed_supervisor_leaves_in_the_group_is_killed_with_it(bench: Bench, real: JobGroups) -> None:
    def kill(_: str) -> None:
        with suppress(StopIteration):
            bench.supervisor().kill()

    outcome = bench.run(bench.command("sh", "-c", "setsid sleep 1000 & echo begun; sleep 1000"), kill, groups=real)
    assert outcome.status == "lost"


def test_a_group_of_a_crashed_daemon_is_swept_when_it_is_empty(real: JobGroups) -> None:
    base = real.places[0].folder
    sleeper = subprocess.Popen(["sleep", "1000"])
    group = base / "mlc-jitd.job.1-1.1"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        cgroup.sweep(base)
        assert group.exists(), "who is in it may still be ended by a supervisor; it is not ours to kill"
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()
    cgroup.sweep(base)
    assert not group.exists()


def test_the_memory_limit_bites_the_job_and_not_the_caller(bench: Bench, real: JobGroups) -> None:
    folder_of(real, "memory")
    eat = "held = []\nwhile True: held.append(bytearray(b'x') * (1 << 20))"
    outcome = bench.run(bench.script(eat), memory_bytes=64 << 20, groups=real)
    assert (outcome.status, outcome.signal) == ("out-of-memory", signal.SIGKILL)
    assert outcome.peak_memory < 128 << 20


def test_a_warm_job_leaves_its_workers_group_for_its_own(bench: Bench, real: JobGroups) -> None:
    (bench.folder / "slowcc.py").write_text("")
    (bench.folder / "job.py").write_text(
        "import os\n"
        "def group(pid):\n"
        "    with open(f'/proc/{pid}/cgroup') as lines:\n"
        "        return next(line.split(':', 2)[2] for line in lines if 'mlc-jitd.job' in line).strip()\n"
        "print(group('self'), group(os.getppid()))\n"
    )
    worker = bench.command(sys.executable, "-P", str(WARM), "--import", "slowcc", "--path", str(bench.folder))
    command = bench.command(sys.executable, "-P", str(bench.folder / "job.py"), env={"PYTHONUNBUFFERED": "1"})
    pool = WarmCompilers(most=1, idle=600.0, memory_free=lambda: 1 << 40, groups=real)
    try:
        kind = Kind("here", "1", lambda _: worker, lambda: True)
        outcomes = [
            pool.run(command, kind, Limits(), log=bench.log, on_line=bench.lines.append, stop=StopSignal())
            for _ in range(2)
        ]
        assert (pool.counts.warm, pool.counts.plain) == (2, 0)
    finally:
        pool.close()
    (first, of_first), (second, of_second) = (outcome.log_tail.split() for outcome in outcomes)
    assert of_first == of_second, "the supervisor of a job stays with the worker"
    assert len({first, second, of_first}) == 3
    assert all(outcome.yielding[0] == "cgroup" for outcome in outcomes)
