"""Risk: a compiler that fails is hidden, believed, remembered for ever, or takes its callers with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until, waiters
from mlc_jit import (
    CompileError,
    CompileKilledError,
    CompileTimedOutError,
    ToolchainNotFoundError,
    jit,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

FAULTS: dict[str, tuple[dict[str, Any], type[CompileError], str, str]] = {
    "exits 1 and leaves output": (
        {"exit": 1, "print": ["TVMError: no such kernel"]},
        CompileError,
        "exit-1",
        "TVMError: no such kernel",
    ),
    "raises": ({"raise": "head_dim must divide"}, CompileError, "exit-1", "ValueError: head_dim must divide"),
    "exits 0 without output": ({"output": False}, CompileError, "no-output", "left no library"),
    "dies by SIGSEGV": ({"signal": 11}, CompileKilledError, "signal-11", "signal 11"),
    "dies by SIGKILL": ({"signal": 9}, CompileKilledError, "signal-9", "signal 9"),
    "floods its log": ({"flood": 40, "exit": 3, "print": ["early"]}, CompileError, "exit-3", "exit status 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_error_says_why(fault: str, daemon: Daemon, double: Double, place: Place) -> None:
    told, kind, reason, said = FAULTS[fault]
    with pytest.raises(kind) as caught:
        jit(double.model(told=told), {}, "cpu")
    error = caught.value
    assert type(error) is kind
    assert error.reason == reason
    assert said in str(error)
    assert len(error.key) == 64
    assert Path(error.log_path).is_file()
    assert "Exporting the model" in error.log_tail or "flood" in error.log_tail
    assert len(error.log_tail) <= 16 << 10
    assert Path(error.log_path).stat().st_size < 32 << 20
    assert place.artifacts() == place.manifests() == []
    assert list((place.library / ".staging").iterdir()) == []
    assert status().jobs == ()
    assert status().counters["failures"] == 1


def test_a_compile_that_takes_too_long(start_daemon: Callable[..., Daemon], double: Double) -> None:
    start_daemon(MLC_JITD_COMPILE_SECONDS="0.7")
    with pytest.raises(CompileTimedOutError, match="ran for longer than it may") as caught:
        jit(double.model(told={"hang": True, "setsid": 2}), {}, "cpu")
    assert "MLC_JITD_COMPILE_SECONDS" in caught.value.remedy


def test_a_compile_that_says_nothing(start_daemon: Callable[..., Daemon], double: Double) -> None:
    start_daemon(MLC_JITD_SILENCE_SECONDS="0.7")
    with pytest.raises(CompileTimedOutError, match="said nothing for too long"):
        jit(double.model(told={"hang": True}), {}, "cpu")


def test_a_failure_reaches_all_who_wait(daemon: Daemon, double: Double, client: Clients, place: Place) -> None:
    gate = double.gate()
    fleet = client.fleet([double.model(told={"wait_for": gate, "exit": 2, "print": ["OSError: no disk"]})] * 8)
    until(lambda: waiters() == 8)
    gate.touch()
    errors = fleet.errors()
    assert {error["error"] for error in errors} == {"CompileError"}
    assert len({error["text"] for error in errors}) == 1
    assert len({error["log_tail"] for error in errors}) == 1
    assert len(double.starts()) == 1
    assert place.manifests() == []


def test_a_failure_is_answered_for_a_while_and_then_tried_again(
    start_daemon: Callable[..., Daemon], double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_daemon(MLC_JITD_BACKOFF_SECONDS="3")
    model = double.model(told={"exit": 1})
    for _ in range(3):
        with pytest.raises(CompileError):
            jit(model, {}, "cpu")
    assert len(double.starts()) == 1
    with pytest.raises(CompileError, match="at once with policy REDO"):
        jit(model, {}, "cpu")
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    with pytest.raises(CompileError):
        jit(model, {}, "cpu")
    assert len(double.starts()) == 2
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    end = time.monotonic() + 12
    while len(double.starts()) == 2 and time.monotonic() < end:
        with pytest.raises(CompileError):
            jit(model, {}, "cpu")
        time.sleep(0.05)
    assert len(double.starts()) == 3


def test_a_failure_is_forgotten_with_its_daemon(daemon: Daemon, double: Double) -> None:
    model = double.model(told={"exit": 1})
    for _ in range(2):
        with pytest.raises(CompileError):
            jit(model, {}, "cpu")
    assert len(double.starts()) == 1
    assert daemon.stop() == 0
    with pytest.raises(CompileError):
        jit(model, {}, "cpu")
    assert len(double.starts()) == 2


def test_a_degraded_library_is_marked(daemon: Daemon, double: Double, place: Place) -> None:
    jit(double.model(told={"degraded": True}), {}, "cpu")
    (manifest,) = place.manifests()
    assert '"flashinfer: ' in manifest.read_text()


def test_a_resolver_that_fails_says_so(daemon: Daemon, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_DOUBLE_RESOLVE", "exit")
    with pytest.raises((ValueError, ToolchainNotFoundError)) as caught:
        jit(double.model(), {}, "cpu")
    assert "the double does not want to" in str(caught.value)
    assert double.starts() == []


def test_an_interpreter_without_a_compiler(daemon: Daemon, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(double.folder))
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", "mlc_llm")
    with pytest.raises(ToolchainNotFoundError, match=r"https://mlc\.ai/wheels"):
        jit(double.model(), {}, "cpu")
