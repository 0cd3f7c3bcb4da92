"""The harness itself: what a test leaves behind is seen, and nothing of the developer's environment reaches a test."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import leftovers
from harness.daemons import Clients
from harness.leftovers import MARK, Scene, alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.daemons import Place

SLEEP = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE", 0.2)


@pytest.fixture
def scene(place: Place) -> Scene:
    return Scene.now(place.scene.mark, place.root)


@pytest.fixture
def pids(scene: Scene) -> Iterator[list[int]]:
    """Processes that are ended with the test, although nobody else would find them."""
    found: list[int] = []
    yield found
    scene.kill()
    until(lambda: not any(leftovers.alive(pid) for pid in found))


def detached(*words: str, env: dict[str, str]) -> int:
    """A process that left our tree; its pid."""
    code = (
        f"import subprocess; print(subprocess.Popen({list(words)!r}, start_new_session=True, stdout=-3, stderr=-3).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    return int(done.stdout)


def test_a_child(scene: Scene, pids: list[int]) -> None:
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    pids.append(child.pid)
    assert f"child {child.pid}" in " ".join(scene.leftovers())
    child.kill()
    until(lambda: any("zombie" in each for each in scene.leftovers()), what="a zombie being seen")
    child.wait()
    assert scene.leftovers() == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a process that left our tree is only seen on Linux")
@pytest.mark.parametrize("seen_by", ["environment", "command line"])
def test_a_process_that_hides(seen_by: str, scene: Scene, place: Place, pids: list[int]) -> None:
    env = dict(os.environ)
    words = [sys.executable, "-c", SLEEP]
    if seen_by == "command line":
        del env[MARK]
        words.append(str(place.root / "x"))
    pid = detached(*words, env=env)
    pids.append(pid)
    until(lambda: pid in scene.processes())
    assert f"process {pid}" in " ".join(scene.leftovers())


def test_a_thread_and_a_descriptor(scene: Scene) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    with tempfile.TemporaryFile():
        left = " ".join(scene.leftovers())
    end.set()
    thread.join()
    assert "thread forgotten" in left
    if Path("/proc").is_dir():
        assert "descriptor" in left
    assert scene.leftovers() == []


def test_a_fleet_whose_test_failed_is_ended(place: Place, pids: list[int]) -> None:
    clients = Clients(place)
    fleet = clients.code("os.fork()\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(60)")
    assert fleet.process.stdout is not None
    pids += [int(fleet.process.stdout.readline()) for _ in range(2)]
    clients.end()
    until(lambda: not any(map(alive, pids)))


def test_every_place_is_the_tests_own(place: Place) -> None:
    ours = [name for name in os.environ if name.startswith(("MLC_", "XDG_")) and not name.startswith("MLC_JITD_TEST_")]
    assert {"MLC_LLM_HOME", "MLC_JITD_RUNTIME_DIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"} <= set(ours)
    for name in [*ours, "HOME", "TMPDIR"]:
        assert name in ("MLC_JITD_SHARED", "MLC_JITD_CGROUP", "MLC_JITD_SYSTEM") or os.environ[name].startswith(
            str(place.root)
        )
    assert tempfile.gettempdir() == str(place.tmp)
    assert Path.home() == place.home
    assert len(str(place.runtime / ("0" * 16 + ".sock"))) < 60


def test_what_a_daemon_has_just_forked_is_no_daemon(place: Place) -> None:
    code = "import os; child = os.fork() or os.read(0, 1); child and print(child, flush=True); os.read(0, 1)"
    daemon = subprocess.Popen(
        [sys.executable, "-c", code, "mlc_jitd", "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with daemon:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        assert {daemon.pid, child} <= set(place.scene.processes())
        assert place.daemons() == [daemon.pid]
        assert daemon.stdin is not None
        daemon.stdin.close()
    until(lambda: not alive(child))
