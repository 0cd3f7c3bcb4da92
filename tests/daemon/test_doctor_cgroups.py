"""What the doctor says of control groups, whatever of them is mounted; and that it only looks."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from mlc_jitd.doctor import yielding
from mlc_jitd.doctor.finding import Finding, Patient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are none elsewhere")

ME = str(os.getpid())
NICE = "compiles step back by nice and its like, not by weights of their own; a daemon that systemd starts has a group"


@dataclass(frozen=True)
class Own:
    version: Literal[1, 2]
    folder: Path


def v1(folder: Path) -> Own:
    folder.mkdir()
    (folder / "cgroup.procs").write_text(f"1\n{ME}\n")
    (folder / "cpu.shares").write_text("1024")
    return Own(1, folder)


def v2(folder: Path, *, procs: str = ME, controllers: str = "cpu memory pids") -> Own:
    folder.mkdir()
    for name, text in {"procs": procs, "controllers": controllers, "subtree_control": ""}.items():
        (folder / f"cgroup.{name}").write_text(text)
    return Own(2, folder)


def files(folder: Path) -> dict[str, str]:
    return {str(file): file.read_text() for file in folder.rglob("*") if file.is_file()}


class Given:
    """Stands for `Groups`."""

    def __init__(self, own: tuple[Own, ...]) -> None:
        self._own = own

    def of(self, _controller: str) -> tuple[Own, ...]:
        return self._own


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Finding]:
    """What is found where these are this process's groups; nothing of them may be changed."""

    def examine(*own: Own, setting: str = "auto") -> Finding:
        monkeypatch.setenv("MLC_JITD_CGROUP", setting)
        monkeypatch.setattr(yielding, "Groups", lambda _root: Given(own))
        before = files(tmp_path)
        (found,) = yielding.delegation(Patient.here())
        assert files(tmp_path) == before
        return found

    return examine


def test_version_2_alone_in_its_group(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v2(tmp_path / "own"))
    assert found.found == (
        f"cgroup v2; a daemon started from here may divide {tmp_path}/own (weights and memory limits)"
    )
    assert (found.level, found.follows) == ("ok", "a compile weighs 10 of 100 for each of its cores")
    assert found.facts["controllers"] == ["cpu", "memory"]


def test_version_2_in_a_shells_group(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v2(tmp_path / "own", procs=f"{ME}\n1\n"))
    assert found.found == (
        f"cgroup v2; a daemon started from here may divide none: {tmp_path}/own has other processes in it"
    )
    assert found.follows.startswith(NICE)
    assert (found.level, found.facts["delegated"]) == ("ok", [])


def test_version_1(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v1(tmp_path / "cpu"), Own(1, tmp_path))
    assert found.found == (
        f"cgroup v1; a daemon started from here may divide {tmp_path}/cpu (weights, no memory limits)"
    )


def test_both_versions_at_once(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v1(tmp_path / "cpu"), v2(tmp_path / "unified", controllers=""))
    assert found.found.startswith("cgroup v1 and v2; ")
    assert found.facts["delegated"] == [str(tmp_path / "cpu")]


def test_none_mounted(examined: Callable[..., Finding]) -> None:
    found = examined()
    assert found.found.startswith("no control groups; a daemon started from here may divide none: no control group")
    assert found.level == "ok"


def test_switched_off(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v2(tmp_path / "own"), setting="off")
    assert found.found == "cgroup v2; switched off for compiles (MLC_JITD_CGROUP=off)"
    assert found.follows == "compiles step back by nice and its like, not by weights of their own"


def test_a_named_folder_that_is_none_is_noted(examined: Callable[..., Finding], tmp_path: Path) -> None:
    found = examined(v2(tmp_path / "own"), setting=f"{tmp_path}/gone")
    assert (found.level, "gone is no folder" in found.found) == ("note", True)
    assert found.remedy.startswith("Correct or unset MLC_JITD_CGROUP")
