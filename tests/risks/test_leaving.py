"""Risk: a client that leaves harms the others, or keeps the host busy for nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import alive, status, until, waiters
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

Command = subprocess.Popen[str]


@pytest.fixture
def compiling() -> Iterator[Callable[..., Command]]:
    """Starts ``mlc-jit compile`` for a model."""
    started: list[Command] = []

    def start(model: Path, *words: str) -> Command:
        program = [sys.executable, "-P", "-m", "mlc_jit", "compile", str(model), "--device", "cpu", *words]
        started.append(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def cancel(key: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-m", "mlc_jit", "cancel", key]
    return subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)


def test_cancel_tells_everyone_who_waits(daemon: Daemon, double: Double, client: Clients, place: Place) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate, "setsid": 1, "ignore_term": True})
    fleet = client.fleet([model] * 4)
    until(lambda: waiters() == 4 and double.children())
    (job,) = status().jobs
    done = cancel(job.key[:8])
    assert (done.returncode, job.key in done.stdout) == (0, True)
    for error in fleet.errors():
        assert error["error"] == "CompileCancelledError"
        assert error["key"] == job.key
    until(lambda: not any(map(alive, [*double.starts(), *double.children()])))
    assert place.artifacts() == []
    gate.touch()
    assert Path(jit(model, {}, "cpu").model_lib_path).is_file()  # a cancelled compile is no failed one


def test_cancel_of_a_queued_compile(start_daemon: Callable[..., Daemon], double: Double, client: Clients) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    gate = double.gate()
    running = client.ask(double.model("running", told={"wait_for": gate}))
    until(double.starts)
    queued = client.ask(double.model("queued"))
    until(lambda: waiters() == 2)
    (key,) = [job.key for job in status().jobs if job.state == "queued"]
    assert cancel(key).returncode == 0
    assert queued.error()["error"] == "CompileCancelledError"
    gate.touch()
    running.path()
    assert len(double.starts()) == 1


def test_cancel_of_an_unknown_key(daemon: Daemon) -> None:
    done = cancel("abcdef")
    assert done.returncode == 2
    assert "'abcdef'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_of_the_only_one_who_asked_ends_the_compile(
    daemon: Daemon, double: Double, compiling: Callable[..., Command], place: Place
) -> None:
    lone = compiling(double.model(told={"hang": True}))
    until(double.starts)
    lone.send_signal(signal.SIGINT)
    out, err = lone.communicate(timeout=40)
    assert (lone.returncode, out) == (130, "")
    assert "Traceback" not in err
    until(lambda: not any(map(alive, double.starts())), what="the compiler's end")
    until(lambda: not status().jobs)
    assert place.artifacts() == []


def test_ctrl_c_of_one_of_two_does_not(
    daemon: Daemon, double: Double, compiling: Callable[..., Command], client: Clients
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    first = compiling(model)
    until(double.starts)
    second = client.ask(model)
    until(lambda: waiters() == 2)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=40)
    assert first.returncode == 130
    until(lambda: waiters() == 1)
    gate.touch()
    assert Path(second.path()).is_file()
    assert len(double.starts()) == 1


def test_ctrl_c_without_a_daemon_ends_the_compile(
    double: Double, compiling: Callable[..., Command], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "file").touch()
    monkeypatch.setenv("MLC_JITD_RUNTIME_DIR", str(place.root / "file" / "r"))
    lone = compiling(double.model(told={"hang": True}))
    until(double.starts)
    lone.send_signal(signal.SIGINT)
    _, err = lone.communicate(timeout=40)
    assert lone.returncode == 130
    assert "Traceback" not in err
    until(lambda: not any(map(alive, double.starts())), what="the compiler's end")


def test_a_queued_compile_that_nobody_waits_for_is_dropped(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    gate = double.gate()
    running = client.ask(double.model("running", told={"wait_for": gate}))
    until(double.starts)
    queued = client.ask(double.model("queued"))
    until(lambda: waiters() == 2)
    queued.kill()
    until(lambda: len(status().jobs) == 1, what="the queued job being dropped")
    gate.touch()
    running.path()
    until(lambda: not status().jobs)
    assert len(double.starts()) == 1


def test_a_callback_that_raises_leaves_the_connection_usable(daemon: Daemon, double: Double) -> None:
    class StopHereError(Exception):
        pass

    def stop(_progress: object) -> None:
        raise StopHereError

    gate = double.gate()
    model, other = double.model(told={"wait_for": gate}), double.model("other")
    with pytest.raises(StopHereError):
        jit(model, {}, "cpu", on_progress=stop)
    gate.touch()
    path = jit(other, {}, "cpu").model_lib_path
    assert jit(model, {}, "cpu").model_lib_path != path
    assert jit(other, {}, "cpu").model_lib_path == path
    assert len(double.starts()) == 2
