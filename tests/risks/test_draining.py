"""Risk: a daemon that ends takes a compile or its waiters with it, or keeps others waiting while it drains."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import alive, status, until, waiters
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


def retired(place: Place) -> bool:
    """The daemon has given up its place."""
    return not list(place.runtime.glob("*.sock"))


def test_sigterm_lets_a_running_compile_finish_and_a_successor_start(
    daemon: Daemon, double: Double, client: Clients, place: Place
) -> None:
    gate = double.gate()
    slow, other = double.model("slow", told={"wait_for": gate}), double.model("other")
    waiting = client.ask(slow)
    until(double.starts)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: retired(place))
    assert Path(jit(other, {}, "cpu").model_lib_path).is_file()  # at once, by the next one
    assert status().pid != daemon.pid
    assert daemon.process.poll() is None
    gate.touch()
    path = waiting.path()
    assert daemon.process.wait(40) == 0
    assert jit(slow, {}, "cpu").model_lib_path == path
    assert len(double.starts()) == 2


def test_the_successor_does_not_compile_what_the_old_daemon_compiles(
    daemon: Daemon, double: Double, client: Clients, place: Place
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    first = client.ask(model)
    until(double.starts)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: retired(place))
    second = client.ask(model)
    until(lambda: not retired(place) and [job.stage for job in status().jobs] == ["locked"])
    assert jit(double.model("other"), {}, "cpu").model_lib_path  # who only waits keeps no cores from others
    gate.touch()
    assert first.path() == second.path()
    assert len(double.starts()) == 2


def test_who_waits_in_a_draining_daemons_queue_goes_to_the_next(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    daemon = start_daemon(MLC_JITD_JOBS="1")
    gate = double.gate()
    running, queued = double.model("running", told={"wait_for": gate}), double.model("queued")
    first = client.ask(running)
    until(double.starts)
    second = client.ask(queued)
    until(lambda: waiters() == 2)
    daemon.process.send_signal(signal.SIGTERM)
    assert Path(second.path()).is_file()
    assert daemon.process.poll() is None
    gate.touch()
    assert Path(first.path()).is_file()
    assert daemon.process.wait(40) == 0


@pytest.mark.parametrize("how", ["SIGINT", "two SIGTERMs", "stop --now", "the drain's time limit"])
def test_waiters_of_a_compile_that_the_drain_ended_ask_the_next_daemon(
    how: str,
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    place: Place,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    daemon = start_daemon(MLC_JITD_DRAIN_SECONDS="0.2" if "limit" in how else "60")
    gate = double.gate()
    fleet = client.fleet([double.model(told={"wait_for": gate, "setsid": 1})] * 4)
    until(lambda: waiters() == 4 and double.children())
    family = [*double.starts(), *double.children()]
    if how == "stop --now":
        assert mlc_jit("stop", "--now").returncode == 0
    else:
        daemon.process.send_signal(signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
        until(lambda: daemon.process.poll() is not None or retired(place))
        if how == "two SIGTERMs":
            daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(40) == 0
    until(lambda: not any(map(alive, family)))
    assert place.artifacts() == []
    gate.touch()
    assert len(set(fleet.paths())) == 1
    assert len(double.starts()) == 2
    assert status().pid != daemon.pid


def test_stop_waits_for_what_runs(
    daemon: Daemon, double: Double, client: Clients, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    gate = double.gate()
    waiting = client.ask(double.model(told={"wait_for": gate}))
    until(double.starts)
    done = mlc_jit("stop")
    assert done.returncode == 0
    assert "1 running compile." in done.stdout
    assert mlc_jit("status").returncode == 3
    gate.touch()
    assert Path(waiting.path()).is_file()
    assert daemon.process.wait(40) == 0


def test_an_idle_daemon_ends_at_once_and_leaves_nothing(daemon: Daemon, double: Double, place: Place) -> None:
    jit(double.model(), {}, "cpu")
    assert daemon.stop() == 0
    assert list(place.tmp.iterdir()) == []
    assert list((place.library / ".staging").iterdir()) == []
    assert {path.suffix for path in place.runtime.iterdir()} == {".lock", ".leases"}, "this process has the library"
