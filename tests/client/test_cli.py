"""``mlc-jit`` as people and scripts meet it: what it prints where, its exit codes, and that asking starts nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import until, waiters

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

    MlcJit = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("verb", [("status",), ("list",), ("cancel", "abc"), ("stop",), ("stop", "--now")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_asking_without_a_daemon(verb: tuple[str, ...], form: tuple[str, ...], mlc_jit: MlcJit, place: Place) -> None:
    done = mlc_jit(*verb, *form)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    if form:
        facts = json.loads(done.stdout)
        assert (facts["error"], facts["reason"]) == ("daemon-unavailable", "down")
    else:
        assert done.stdout == ""
        assert "No mlc-jitd daemon is running" in done.stderr
    assert place.daemons() == []
    assert list(place.runtime.iterdir()) == []


def test_compile_prints_the_path_alone(mlc_jit: MlcJit, double: Double, place: Place) -> None:
    model = double.model()
    first = mlc_jit("compile", model, "--device", "cpu")
    assert first.returncode == 0
    assert first.stdout == f"{place.artifacts()[0]}\n"
    assert "tiny: start" in first.stderr
    again = mlc_jit("compile", model, "--device", "cpu")
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_compile_quietly(mlc_jit: MlcJit, double: Double) -> None:
    done = mlc_jit("compile", double.model(), "--device", "cpu", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""


def test_compile_as_json(mlc_jit: MlcJit, double: Double, daemon: Daemon) -> None:
    words = ["compile", double.model(), "--device", "cpu", "--json"]
    first, second = json.loads(mlc_jit(*words).stdout), json.loads(mlc_jit(*words).stdout)
    assert (first["source"], first["reason"], second["source"], second["reason"]) == ("compiled", "absent", "hit", "")
    assert first["path"] == second["path"]
    assert len(first["key"]) == 64
    assert first["waited"] > 0
    third = json.loads(mlc_jit(*words, "--policy", "REDO").stdout)
    assert (third["source"], third["reason"]) == ("compiled", "redo")


def test_compile_with_everything(mlc_jit: MlcJit, double: Double) -> None:
    done = mlc_jit(
        "compile", double.model(), "--device", "android", "--opt", "O3", "--system-lib-prefix", "my",
        "--overrides", "max_batch_size=4; context_window_size=32;disaggregation=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = json.loads(Path(done.stdout.strip()).read_bytes().splitlines()[-1])
    assert (asked["opt"], asked["prefix"]) == ("O3", "my_")
    assert {"max_batch_size=4", "context_window_size=32"} <= set(asked["overrides"].split(";"))


@pytest.mark.parametrize("words", [(), ("compile",), ("fly",), ("compile", "m", "--policy", "MAYBE"), ("status", "x")])
def test_a_wrong_command_line(words: tuple[str, ...], mlc_jit: MlcJit) -> None:
    done = mlc_jit(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: mlc-jit" in done.stderr


def test_help_documents_the_exit_codes(mlc_jit: MlcJit) -> None:
    done = mlc_jit("--help")
    assert done.returncode == 0
    for code in (0, 1, 2, 3, 4, 130):
        assert f"\n  {code}  " in done.stdout
    assert "Traceback" not in mlc_jit("--version").stderr


def test_a_failed_compile_shows_cause_log_and_last_lines(mlc_jit: MlcJit, double: Double, daemon: Daemon) -> None:
    model = double.model(told={"raise": "the vocabulary is empty"})
    done = mlc_jit("compile", model, "--device", "cpu")
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.split("The log's last lines:")
    assert "ValueError: the vocabulary is empty" in said[0]
    assert "Compiler log: " in said[0]
    assert "Traceback" not in said[0]  # ours; the compiler's own may stand in its log
    assert "  | ValueError: the vocabulary is empty" in said[1]
    facts = json.loads(mlc_jit("compile", model, "--device", "cpu", "--json").stdout)
    assert facts["error"] == "compile-failed"
    assert "vocabulary" in facts["message"]
    assert Path(facts["log_path"]).is_file()


def test_status_while_it_compiles(mlc_jit: MlcJit, double: Double, daemon: Daemon, client: Clients) -> None:
    gate = double.gate()
    asking = client.ask(double.model(told={"wait_for": gate}))
    until(lambda: waiters() == 1 and double.starts())
    facts = json.loads(mlc_jit("status", "--json").stdout)
    assert facts["pid"] == daemon.pid
    (job,) = facts["jobs"]
    assert (job["state"], job["waiters"], Path(job["model"]).name) == ("running", 1, "tiny")
    shown = mlc_jit("status").stdout
    assert f"pid {daemon.pid}, serving" in shown
    assert job["key"][:12] in shown
    assert "1 running" in shown
    gate.touch()
    asking.path()


def test_list_shows_the_entries(mlc_jit: MlcJit, double: Double, daemon: Daemon, client: Clients) -> None:
    assert mlc_jit("list").stdout == "The cache is empty.\n"
    assert json.loads(mlc_jit("list", "--json").stdout) == []
    paths = [client.ask(double.model(name, vocab_size=size)).path() for name, size in (("a", 7), ("b", 8))]
    entries = json.loads(mlc_jit("list", "--json").stdout)
    assert [entry["path"] for entry in entries] == paths[::-1]
    assert {Path(entry["model"]).name for entry in entries} == {"a", "b"}
    lines = mlc_jit("list").stdout.splitlines()
    assert len(lines) == 3
    assert entries[0]["key"][:12] in lines[1]


def test_cancel_and_stop_as_json(mlc_jit: MlcJit, double: Double, daemon: Daemon, client: Clients) -> None:
    asking = client.ask(double.model(told={"hang": True}))
    until(lambda: waiters() == 1 and double.starts())
    (job,) = json.loads(mlc_jit("status", "--json").stdout)["jobs"]
    assert json.loads(mlc_jit("cancel", job["key"], "--json").stdout) == {"cancelled": job["key"]}
    assert asking.error()["error"] == "CompileCancelledError"
    assert json.loads(mlc_jit("stop", "--json").stdout)["pid"] == daemon.pid
    assert daemon.process.wait(40) == 0


def test_a_stopped_daemon_does_not_hang_status(mlc_jit: MlcJit, daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGSTOP)
    done = mlc_jit("status", MLC_JITD_DAEMON_SILENCE_SECONDS="0.3")
    daemon.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "has said nothing for" in done.stderr


def test_a_reader_that_left_is_no_traceback(double: Double, daemon: Daemon) -> None:
    program = [sys.executable, "-P", "-m", "mlc_jit", "compile", str(double.model()), "--device", "cpu"]
    asking = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    asking.stdout.close()
    assert asking.stderr is not None
    said = asking.stderr.read()
    asking.stderr.close()
    assert asking.wait(40) == 1
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_the_installed_commands(double: Double) -> None:
    for name in ("mlc-jit", "mlc-jitd"):
        program = Path(sys.executable).with_name(name)
        if not program.exists():
            pytest.skip("not installed beside this interpreter")
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0
        assert done.stdout.startswith(name)
