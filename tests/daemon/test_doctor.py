"""The doctor: one finding for each thing that is looked at, a remedy for each problem, and never a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.cli import doctor as shown
from mlc_jitd import doctor
from mlc_jitd.doctor import compilers, daemon, host, leftovers, places, yielding
from mlc_jitd.doctor.finding import Finding, Patient
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.host import GIB, MIB, Capacity, Gpu

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from harness.daemons import Daemon, Place
    from harness.doubles import Double


def only(check: Callable[[Patient], Iterator[Finding]]) -> Finding:
    (found,) = check(Patient.here())
    assert found.remedy or found.level == "ok"
    return found


def described(monkeypatch: pytest.MonkeyPatch, **figures: Any) -> None:
    """A host as the test says."""
    base: dict[str, Any] = {"cores": 8.0, "memory_total": 32 * GIB, "memory_available": 30 * GIB}
    host_ = Capacity(**{**base, **figures})
    monkeypatch.setattr(capacity, "read", lambda: host_)


# --- through the command --------------------------------------------------------------------------------------------


def test_a_healthy_host(mlc_jit: Callable[..., subprocess.CompletedProcess[str]], double: Double, place: Place) -> None:
    done = mlc_jit("doctor", "--json")
    report = json.loads(done.stdout)
    found = {each["check"]: each for each in report["findings"]}
    problems = [each for each in report["findings"] if each["level"] == "problem"]
    assert (done.returncode, problems) == (0, []), problems
    assert set(found) == {
        "cores", "memory", "gpus", "yielding", "toolchain", "linker", "home", "locking", "disk", "runtime", "daemon",
        "kernels", "leftovers", "limits", "watches", *(["cgroup"] if "cgroup" in found else []),
    }  # fmt: skip
    assert found["toolchain"]["facts"]["chosen"] == "mlc_llm"
    assert found["home"]["facts"]["path"] == str(place.cache)
    assert found["daemon"]["found"] == "none is running"
    assert place.daemons() == [], "it starts none"


def test_it_is_shown_to_people(mlc_jit: Callable[..., subprocess.CompletedProcess[str]], double: Double) -> None:
    done = mlc_jit("doctor", COLUMNS="80")
    assert done.returncode == 0
    assert "0 problems" in done.stdout
    lines = done.stdout.splitlines()[3:]
    assert all(len(line) <= 80 for line in lines if " " in line.strip()), done.stdout


def test_a_problem_is_exit_code_1(mlc_jit: Callable[..., subprocess.CompletedProcess[str]], place: Place) -> None:
    place.runtime.chmod(0o777)
    done = mlc_jit("doctor", MLC_JITD_JOBS="many")
    assert done.returncode == 1
    assert "PROBLEM  settings" in done.stdout
    assert "PROBLEM  runtime" in done.stdout
    assert "-> Correct or unset MLC_JITD_JOBS." in done.stdout
    assert "chmod 700" in done.stdout
    place.runtime.chmod(0o700)


def test_a_daemon_that_runs_is_asked(daemon: Daemon, mlc_jit: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    found = {each["check"]: each for each in json.loads(mlc_jit("doctor", "--json").stdout)["findings"]}
    assert found["daemon"]["facts"]["pid"] == daemon.pid
    assert found["daemon"]["follows"] == "idle"


def test_a_daemon_that_can_not_be_run_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown.sys, "executable", "/bin/false")
    report = shown.examine()
    assert [each["level"] for each in report["findings"]] == ["problem"]
    assert "pip install" in shown.screen(report, width=80)
    monkeypatch.setattr(shown.sys, "executable", "/no/such/python")
    assert shown.examine()["findings"][0]["level"] == "problem"


# --- the checks -----------------------------------------------------------------------------------------------------


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    def broken(_patient: Patient) -> Iterator[Finding]:
        raise ZeroDivisionError("oh")
        yield

    found = doctor.examine(Patient.here(), (broken, host.gpus))
    assert [(each.check, each.level) for each in found] == [("broken", "problem"), ("gpus", "ok")]
    assert "ZeroDivisionError: oh" in found[0].found


@pytest.mark.parametrize(
    ("figures", "level", "says"),
    [
        ({}, "ok", "is taken to need 2.0 GiB"),
        ({"memory_total": 700 * MIB, "memory_available": 600 * MIB}, "problem", "may be killed"),
        ({"memory_available": 300 * MIB}, "note", "then starts all the same"),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any], level: str, says: str) -> None:
    described(monkeypatch, **figures)
    found = only(host.memory)
    assert (found.level, says in found.follows) == (level, True)


def test_slots_follow_from_cores_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch)
    assert only(host.cores).follows.startswith("2 compiles at a time, 4 cores each")
    monkeypatch.setenv("MLC_JITD_JOBS", "8")
    assert only(host.cores).follows.startswith("8 compiles at a time, 1 core each")
    described(monkeypatch, cores=0.5)
    assert only(host.cores).level == "note"


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(index=0, uuid="GPU-1", model="A10", memory_total=24 * GIB, memory_free=GIB)
    described(monkeypatch, gpus=(gpu,), notes=("gpus: 1 from NVML, driver 1",))
    assert only(host.gpus).found == "A10 (1.0 GiB of 24.0 GiB free); 1 from NVML, driver 1"
    described(monkeypatch, notes=("gpus: none looked for, nvidia-ml-py is not installed",))
    assert only(host.gpus).level == "ok"
    monkeypatch.setattr(host, "NVIDIA", Path("/dev/null"))
    assert only(host.gpus).level == "note"


def test_an_open_cache_is_a_problem(place: Place) -> None:
    place.library.mkdir()
    place.library.chmod(0o777)
    found = only(places.home)
    assert (found.level, "chmod" in found.remedy) == ("problem", True)


@pytest.mark.parametrize(("kind", "level"), [("ext4", "ok"), ("nfs4", "note"), ("tmpfs", "note"), ("", "ok")])
def test_the_file_system_of_the_home(monkeypatch: pytest.MonkeyPatch, kind: str, level: str) -> None:
    monkeypatch.setattr(places, "file_system", lambda _path: kind)
    assert only(places.home).level == level


def test_the_file_system_of_a_path() -> None:
    assert places.file_system(Path("/proc/self/status")) in ("proc", "")
    assert places.file_system(Path("/no/such/folder")) == places.file_system(Path("/"))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs("/")
    for free, level in ((10, "problem"), (100_000, "note"), (10_000_000, "ok")):
        values = list(real)
        values[0] = values[1] = 4096
        values[4] = free
        monkeypatch.setattr(places.os, "statvfs", lambda _path, values=values: os.statvfs_result(values))
        assert only(places.disk).level == level


def test_a_runtime_folder_that_is_not_there_yet(place: Place) -> None:
    place.runtime.rmdir()
    assert "not there yet" in only(places.runtime).found
    place.runtime.mkdir(mode=0o700)


def test_leftovers_are_counted(place: Place) -> None:
    assert only(leftovers.leftovers).found == "none"
    (place.library / ".staging" / ("ab" * 8)).mkdir(parents=True)
    (place.library / ".quarantine" / "x").mkdir(parents=True)
    (place.library / f"{'ab' * 32}-{'0' * 16}.so").touch()
    counts = {"staging": 1, "orphans": 1, "quarantined": 1, "sockets": 0, "processes": 0}
    assert only(leftovers.leftovers).facts == counts


def test_no_toolchain_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_JITD_PYTHON", "/no/such/python")
    assert only(compilers.toolchain).level == "problem"
    monkeypatch.delenv("MLC_JITD_PYTHON")
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", "gcc")
    assert only(compilers.toolchain).remedy == "Correct or unset MLC_JITD_TOOLCHAIN."


def test_both_toolchains_are_named(double: Double) -> None:
    found = only(compilers.toolchain)
    assert found.facts["chosen"] == "mlc_llm"
    assert "MLC_JITD_TOOLCHAIN=tvm" in found.follows


def test_without_a_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    found = only(compilers.linker)
    assert (found.level, "g++" in found.remedy) == ("problem", True)


def test_what_held_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = only(yielding.yielding)
    assert "nice" in found.facts["held"]
    assert found.facts["missing"] == [] or found.level == "note"


def test_the_reason_of_a_failed_start_is_told() -> None:
    where = Patient.here().places
    assert where is not None
    where.start_error.write_text(json.dumps({"message": "No room.", "remedy": "Make some.", "kind": "store"}))
    found = only(daemon.daemon)
    assert (found.level, found.remedy) == ("note", "Make some.")
    assert "No room" in found.found
    where.start_error.write_text("not JSON")
    assert only(daemon.daemon).level == "ok"


def test_switched_off_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_JITD", "off")
    found = list(daemon.daemon(Patient.here()))
    assert [each.check for each in found] == ["client", "daemon"]


def test_no_home_is_one_problem_and_the_rest_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_LLM_HOME", "/proc/no-such-folder")
    found = doctor.examine(Patient.here(), [check for check in doctor.CHECKS if check is not yielding.yielding])
    assert next(each.check for each in found if each.level == "problem") == "home"
    assert "could not be looked at" not in str(found)
