"""Risk: kill -9 of anybody in the middle of a compile. Nobody hangs, nothing partial is seen, nothing is orphaned."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import alive, status, until, waiters
from harness.leftovers import below
from mlc_jit import jit
from mlc_jitd.build import owners

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


@pytest.fixture
def gate(double: Double) -> Path:
    return double.gate()


@pytest.fixture
def gated(double: Double, gate: Path) -> Path:
    """A model whose compile writes output, has children that hide, and goes on once the gate is there."""
    return double.model(told={"setsid": 1, "children": 1, "wait_for": gate})


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_the_compiler(
    start_daemon: Callable[..., Daemon], double: Double, gate: Path, gated: Path, client: Clients, place: Place
) -> None:
    start_daemon(MLC_JITD_BACKOFF_SECONDS="0")
    fleet = client.fleet([gated] * 4)
    until(lambda: waiters() == 4 and len(double.children()) == 2)
    kill(double.starts()[0])
    for error in fleet.errors():
        assert (error["error"], error["reason"]) == ("CompileKilledError", "signal-9")
        assert "signal 9" in error["text"]
        assert Path(error["log_path"]).is_file()
    assert place.artifacts() == place.manifests() == []
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()


def test_the_daemon(daemon: Daemon, double: Double, gate: Path, gated: Path, client: Clients, place: Place) -> None:
    fleet = client.fleet([gated] * 4)
    until(lambda: waiters() == 4 and len(double.children()) == 2)
    family = [*double.starts(), *double.children()]
    daemon.kill()
    until(lambda: not any(alive(pid) for pid in family), what="the compiler's end")
    assert place.artifacts() == place.manifests() == []
    gate.touch()
    assert len(set(fleet.paths())) == 1
    assert len(double.starts()) == 2
    assert status().pid != daemon.pid


def test_the_client_that_asked_first(daemon: Daemon, double: Double, gate: Path, gated: Path, client: Clients) -> None:
    first = client.ask(gated)
    until(double.starts)
    second = client.ask(gated)
    until(lambda: waiters() == 2)
    first.kill()
    gate.touch()
    assert Path(second.path()).is_file()
    assert len(double.starts()) == 1


def test_the_only_client(
    daemon: Daemon, double: Double, gate: Path, gated: Path, client: Clients, place: Place
) -> None:
    only = client.ask(gated)
    until(double.starts)
    only.kill()
    until(lambda: waiters() == 0, what="the daemon noticing")
    gate.touch()
    until(place.manifests, what="an entry, although nobody waits any more")
    until(lambda: not status().jobs)
    assert jit(gated, {}, "cpu").model_lib_path == str(place.artifacts()[0])
    assert len(double.starts()) == 1


def test_the_supervisor(
    start_daemon: Callable[..., Daemon], double: Double, gate: Path, gated: Path, client: Clients, place: Place
) -> None:
    daemon = start_daemon(MLC_JITD_BACKOFF_SECONDS="0")
    waiting = client.ask(gated)
    until(lambda: len(double.children()) == 2)
    family = [*double.starts(), *double.children()]
    (supervisor,) = below(daemon.pid, "boot.py")
    kill(supervisor.pid)
    error = waiting.error()
    assert error["error"] == "CompileKilledError"
    until(lambda: not any(alive(pid) for pid in family), what="the compiler's end")
    assert place.artifacts() == place.manifests() == []
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()


def test_the_daemon_and_the_supervisor_at_the_same_moment(
    start_daemon: Callable[..., Daemon], double: Double, gate: Path, gated: Path, client: Clients, place: Place
) -> None:
    """The kernel ends the command; its children, which nobody is left to end, are the next daemon's to end."""
    daemon = start_daemon(MLC_JITD_WARM="off")
    asking = client.ask(gated)
    until(lambda: len(double.children()) == 2)
    family, hidden = double.starts(), double.children()
    asking.kill()  # so that no daemon is started yet
    (supervisor,) = psutil.Process(daemon.pid).children()
    assert "boot.py" in " ".join(supervisor.cmdline())
    for pid in (daemon.pid, supervisor.pid):
        kill(pid)
    until(lambda: not any(alive(pid) for pid in family), what="the command's end")
    assert any(alive(pid) for pid in hidden), "what the test is about"
    place.stale_sockets = True
    start_daemon()
    until(lambda: not any(alive(pid) for pid in hidden), what="the end of what was left")
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()


def test_the_next_daemon_ends_nothing_of_those_that_live(
    start_daemon: Callable[..., Daemon], double: Double, gate: Path, gated: Path, client: Clients, place: Place
) -> None:
    """One compile of a daemon, and one of a `once`; a further process over the same home looks for leftovers."""
    blocked = place.root / "file"
    blocked.touch()
    start_daemon()
    by_daemon = client.ask(gated)
    until(lambda: len(double.children()) == 2)
    other = double.model("other", told={"setsid": 1, "children": 1, "wait_for": gate}, vocab_size=77)
    by_once = client.ask(other, MLC_JITD_RUNTIME_DIR=str(blocked / "r"))
    until(lambda: len(double.children()) == 4)
    running = [*double.starts(), *double.children()]
    assert owners.end_leftovers(place.cache) == []
    assert all(alive(pid) for pid in running)
    gate.touch()
    assert Path(by_daemon.path()).is_file()
    assert Path(by_once.path()).is_file()


@pytest.mark.parametrize("whom", ["the client", "its helper", "the compiler"])
def test_without_a_daemon(
    whom: str, double: Double, gate: Path, gated: Path, client: Clients, place: Place, ended: None
) -> None:
    blocked = place.root / "file"
    blocked.touch()
    asking = client.ask(gated, MLC_JITD_RUNTIME_DIR=str(blocked / "r"))
    until(lambda: len(double.children()) == 2)
    family = [*double.starts(), *double.children()]
    (helper,) = psutil.Process(asking.pid).children()
    if whom == "the client":
        asking.kill()
    elif whom == "its helper":
        kill(helper.pid)
        assert asking.path().startswith(f"upstream's for {gated.name}")  # the last resort
    else:
        kill(double.starts()[0])
        assert asking.error()["error"] == "CompileKilledError"
    until(lambda: not any(alive(pid) for pid in [*family, helper.pid]), what="the end of all")
    assert place.artifacts() == place.manifests() == []
    gate.touch()
    assert Path(client.ask(gated, MLC_JITD_RUNTIME_DIR=str(blocked / "r")).path()).is_file()
