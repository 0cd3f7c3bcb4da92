"""A real daemon's history: who asked, who waited, what each stage took, how it ended; and what a kill -9 leaves."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until, waiters
from mlc_jitd.observe import History

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double
    from mlc_jitd.observe import JobRecord


pytestmark = pytest.mark.timeout(60)  # compiles one after another: seconds here, more on a full host


@pytest.fixture
def history(place: Place) -> History:
    return History(place.library)


def ended(history: History, count: int) -> list[JobRecord]:
    """The history once it has so many jobs."""
    until(lambda: len(list(history.jobs())) >= count)
    found = list(history.jobs())
    assert len(found) == count
    return found


def test_a_compile_with_who_joined_and_who_left(
    daemon: Daemon, double: Double, client: Clients, history: History
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    first = client.ask(model)
    until(lambda: waiters() == 1)
    second, third = client.ask(model), client.ask(model)
    until(lambda: waiters() == 3)
    third.kill()
    until(lambda: waiters() == 2)
    gate.touch()
    assert first.path() == second.path()
    (job,) = ended(history, 1)
    assert (job.ending.outcome, job.subject.reason, job.subject.model) == ("compiled", "absent", str(model))
    assert job.subject.toolchain.startswith("mlc_llm ")
    assert (job.waiters[0].who.pid, job.waiters[0].outcome) == (first.pid, "served")
    assert {(wait.who.pid, wait.outcome) for wait in job.waiters[1:]} == {(second.pid, "served"), (third.pid, "left")}
    assert {wait.who.uid for wait in job.waiters} == {os.getuid()}
    assert all(wait.who.program.startswith("python") for wait in job.waiters)
    names = [span.name for span in job.spans]
    assert names[0] == "queued"
    assert names[-1] == "publish"
    assert len(names) > 4
    assert sum(span.seconds for span in job.spans) == pytest.approx(job.seconds, abs=0.01)
    assert 0 < job.ending.seconds <= job.seconds
    assert job.ending.peak_memory > 0
    assert job.ending.size > 0
    assert job.cores >= 1


def test_how_each_job_ended(
    daemon: Daemon, double: Double, client: Clients, history: History, mlc_jit: Callable[..., object]
) -> None:
    client.ask(double.model("bad", told={"raise": "head_dim must be <even>"}, vocab_size=7)).error()
    busy = client.ask(double.model("busy", told={"hang": True}))
    until(lambda: bool(status().jobs) and status().jobs[0].state == "running")
    mlc_jit("cancel", status().jobs[0].key)
    busy.error()
    good = double.model("good")
    client.ask(good).path()
    client.ask(good, MLC_JIT_POLICY="REDO").path()
    client.ask(good, MLC_JIT_POLICY="READONLY").path()
    bad, cancelled, made, again = ended(history, 4)
    assert (bad.ending.outcome, bad.ending.kind) == ("failed", "compile-failed")
    assert "head_dim must be <even>" in bad.ending.cause
    assert bad.ending.log.endswith(".log")
    assert [wait.outcome for wait in bad.waiters] == ["refused"]
    assert cancelled.ending.outcome == "cancelled"
    assert (made.ending.outcome, again.ending.outcome) == ("compiled", "compiled")
    assert (made.subject.reason, again.subject.reason) == ("absent", "redo")
    daemon.stop()
    (counts,) = history.hours().values()
    assert counts["hit"] == 1
    assert counts["compiled"] == 2
    assert counts["misses_absent"] == 3
    assert counts["misses_redo"] == 1
    assert counts["refused_exit-1"] == 1
    assert counts["jobs_cancelled"] == 1


def test_history_survives_a_killed_daemon_and_goes_on(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, history: History, place: Place
) -> None:
    daemon = start_daemon()
    client.ask(double.model("one", vocab_size=1)).path()
    ended(history, 1)
    hanging = client.ask(double.model("two", told={"hang": True}), MLC_JITD="require")
    until(lambda: bool(double.starts()[1:]))
    daemon.stop(signal.SIGKILL)
    hanging.kill()
    with (history.folder / "jobs.jsonl").open("ab") as file:
        file.write(b'{"v":1,"job":{"subje')  # as if it had been killed in the middle of a line
    start_daemon()
    client.ask(double.model("three", vocab_size=3)).path()
    assert [job.subject.model.rpartition("/")[2] for job in ended(history, 2)] == ["one", "three"]


def test_a_home_without_room_for_history_still_compiles(
    daemon: Daemon, double: Double, client: Clients, place: Place
) -> None:
    (place.library / ".history").write_text("not a folder")
    client.ask(double.model()).path()
    assert client.ask(double.model()).path()
    daemon.stop()
    assert daemon.log.read_text().count("the history in") == 1


def test_compiles_without_a_daemon_are_remembered_too(
    double: Double, client: Clients, history: History, place: Place
) -> None:
    blocked = place.root / "file"
    blocked.touch()
    nowhere = {"MLC_JITD_RUNTIME_DIR": str(blocked / "r")}
    asking = client.ask(double.model("good"), **nowhere)
    asking.path()
    client.ask(double.model("bad", told={"raise": "no"}, vocab_size=7), **nowhere).error()
    good, bad = ended(history, 2)
    assert (good.ending.outcome, good.waiters[0].who.pid, good.waiters[0].outcome) == ("compiled", asking.pid, "served")
    assert {"start", "publish"} <= {span.name for span in good.spans}
    assert (bad.ending.outcome, bad.subject.reason) == ("failed", "absent")
    assert place.daemons() == []


def test_a_trace_has_what_is_under_way(
    daemon: Daemon, double: Double, client: Clients, place: Place, mlc_jit: Callable[..., Any]
) -> None:
    gate, out = double.gate(), place.root / "trace.json"
    asking = client.ask(double.model(told={"wait_for": gate}))
    until(lambda: bool(double.starts()))
    done = mlc_jit("trace", "-o", out, "--json")
    assert json.loads(done.stdout)["jobs"] == 1
    (job,) = [event for event in json.loads(out.read_text())["traceEvents"] if event.get("cat") == "job"]
    assert job["args"]["outcome"] == "running"
    gate.touch()
    asking.path()
    mlc_jit("stop")
    assert mlc_jit("trace", "-o", out).returncode == 0
    (job,) = [event for event in json.loads(out.read_text())["traceEvents"] if event.get("cat") == "job"]
    assert job["args"]["outcome"] == "compiled"
    assert place.daemons() == []
    assert mlc_jit("trace", "-o", place.root / "no" / "where").returncode == 1
