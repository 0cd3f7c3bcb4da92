"""What a daemon that died with its supervisors left is ended; what belongs to anybody who lives is not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.leftovers import alive
from mlc_jitd.build import Limits, StopSignal, owners, run
from mlc_jitd.build.supervisor import tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere environments can't be read")

Start = Callable[..., psutil.Process]


@pytest.fixture
def start() -> Iterator[Callable[..., psutil.Process]]:
    """Starts a process that sleeps, with a given owner, with a child that hides and has no environment if asked."""
    started: list[subprocess.Popen[bytes]] = []

    def process(owner: str, text: str = "") -> psutil.Process:
        code = textwrap.dedent(text) + "\nimport time; print(flush=True); time.sleep(1000)"
        made = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={owners.OWNER: owner})
        started.append(made)
        assert made.stdout is not None
        made.stdout.readline()
        return psutil.Process(made.pid)

    yield process
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def dead(home: Path) -> str:
    """The name of an owner that is no more."""
    ended = subprocess.Popen(["sleep", "1000"])
    seen = tree.read(ended.pid)
    assert seen is not None
    ended.kill()
    ended.wait()
    return f"{owners.name_of(home).partition(':')[0]}:{seen.pid}-{seen.start}"


def reused(home: Path) -> str:
    """The name of an owner whose pid another process has by now."""
    prefix, _, start = owners.name_of(home).rpartition("-")
    return f"{prefix}-{int(start) - 1}"


@pytest.mark.parametrize("owner", [dead, reused])
def test_what_a_dead_owner_left_is_ended(tmp_path: Path, start: Start, owner: Callable[[Path], str]) -> None:
    left = start(owner(tmp_path))
    assert owners.end_leftovers(tmp_path) == [left.pid]
    assert not alive(left.pid)


def test_its_children_without_an_environment_are_ended_too(tmp_path: Path, start: Start) -> None:
    child = 'import subprocess; subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)'
    left = start(dead(tmp_path), child)
    (child_of_it,) = left.children()
    assert set(owners.end_leftovers(tmp_path)) == {left.pid, child_of_it.pid}
    assert not alive(child_of_it.pid)


def test_the_living_are_left_alone(tmp_path: Path, start: Start) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kept = [start(owners.name_of(tmp_path)), start(dead(other)), start("nonsense"), start("")]
    assert owners.end_leftovers(tmp_path) == []
    assert all(alive(each.pid) for each in kept)


def test_a_job_that_runs_here_is_left_alone(bench: Bench) -> None:
    ended: list[int] = []
    outcome = run(
        bench.script("""
            import os, subprocess, sys
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            print(os.environ["MLC_JITD_OWNER"])
        """),
        Limits(),
        log=bench.log,
        on_line=lambda _: ended.extend(owners.end_leftovers(bench.folder)),
        stop=StopSignal(),
        owner=owners.name_of(bench.folder),
    )
    assert outcome.log_tail == owners.name_of(bench.folder) + "\n"
    assert (outcome.succeeded, ended) == (True, [])


CALLER = """
import sys
from pathlib import Path
from mlc_jitd.build import Limits, StopSignal, owners, run
folder = Path(sys.argv[1])
class Command:
    argv = ("/bin/sh", "-c", "trap 'sleep 1; touch tidied; exit' TERM; touch ready; sleep 1000 & wait")
    env = (("PATH", "/usr/bin:/bin"), ("BUILD_TEST", str(folder)))
    cwd = folder
run(Command, Limits(grace=8), log=folder / "log", on_line=print, stop=StopSignal(), owner=owners.name_of(folder))
"""


def test_what_a_supervisor_still_holds_gets_its_grace(bench: Bench) -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(bench.folder)])
    end = time.monotonic() + 10
    while not (bench.folder / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    caller.kill()
    caller.wait()
    assert owners.end_leftovers(bench.folder) == []
    assert bench.alive() == []
    assert (bench.folder / "tidied").exists()


def test_a_supervisor_that_does_nothing_is_not_waited_for(
    bench: Bench, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "HELD_SECONDS", 0.3)
    monkeypatch.setattr(owners, "_is_held", lambda *_: True)
    left = start(dead(bench.folder))
    assert owners.end_leftovers(bench.folder) == [left.pid]


def test_a_home_that_is_gone_names_nobody(tmp_path: Path) -> None:
    assert owners.end_leftovers(tmp_path / "gone") == []
    assert os.getpid() in tree.snapshot()
