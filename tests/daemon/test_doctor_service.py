"""The doctor's look at the service, at settings, and at locks whose holders do not get on."""

from __future__ import annotations

import fcntl
import os
import signal
from typing import TYPE_CHECKING

import pytest

from harness.daemons import command
from mlc_jit import services
from mlc_jitd.doctor import daemon as daemon_check
from mlc_jitd.doctor import places as places_check
from mlc_jitd.doctor import service
from mlc_jitd.doctor.finding import Patient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Daemon, Place
    from mlc_jitd.doctor.finding import Finding


def found(check: Callable[[Patient], Iterator[Finding]]) -> list[Finding]:
    findings = list(check(Patient.here()))
    assert all(each.remedy for each in findings if each.level != "ok")
    return findings


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What systemd would say."""
    said: dict[str, str] = {services.SOCKET: "active", services.SERVICE: "inactive"}
    monkeypatch.setattr(service, "_states", lambda: said)
    return said


def test_no_service_is_no_finding() -> None:
    assert found(service.service) == []


def test_an_installed_service(states: dict[str, str], place: Place) -> None:
    command("service", "install")
    (ok,) = found(service.service)
    assert ok.level == "ok", ok
    states[services.SOCKET] = "inactive"
    (note,) = found(service.service)
    assert (note.level, "enable --now" in note.remedy) == ("note", True)
    states[services.SERVICE] = "failed"
    (problem,) = found(service.service)
    assert (problem.level, "journalctl" in problem.remedy) == ("problem", True)


def test_a_service_for_another_place(states: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    command("service", "install")
    monkeypatch.setenv("MLC_LLM_HOME", str(place.folder("other")))
    (note,) = found(service.service)
    assert note.level == "note"
    assert "it listens at" in note.found


def test_a_service_whose_interpreter_is_gone(states: dict[str, str], place: Place) -> None:
    command("service", "install")
    unit = services.folder() / services.SERVICE
    unit.write_text(unit.read_text().replace("ExecStart=", "ExecStart=/gone/bin/"))
    (problem,) = found(service.service)
    assert problem.level == "problem"
    assert "is gone" in problem.found
    states[services.SOCKET] = "inactive"
    (note,) = found(service.service)
    assert note.level == "note", "nobody waits for it"


def test_every_slip_in_the_settings_is_a_problem(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.config.write_text("job = 1\nmax_queued = 0\n")
    monkeypatch.setenv("MLC_JITD_WARM", "lots")
    problems = found(places_check.troubles)
    assert [each.level for each in problems] == ["problem"] * 3
    assert {each.check for each in problems} == {"settings"}
    assert "Did you mean `jobs`" in problems[0].remedy


def test_a_lock_without_a_listener(place: Place) -> None:
    assert found(service.locks) == []
    lock = Patient.here().places.lock  # type: ignore[union-attr]
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\n")
        file.flush()
        (problem,) = found(service.locks)
    assert problem.level == "problem"
    assert f"pid {os.getpid()}" in problem.found
    assert f"kill {os.getpid()}" in problem.remedy
    assert found(service.locks) == [], "the kernel gave it back"


def test_a_daemon_that_serves_holds_its_lock_rightly(daemon: Daemon) -> None:
    assert found(service.locks) == []


def test_a_stopped_holder_of_a_keys_lock(place: Place) -> None:
    from mlc_jitd.store import Store

    store = Store(place.cache)
    store.open()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        lock = store.lock("ab" * 32)
        lock.acquire()
        os.write(write_end, b"x")
        signal.pause()
    try:
        os.read(read_end, 1)
        assert found(service.locks) == []
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        (problem,) = found(service.locks)
        assert (problem.level, f"process {pid}" in problem.found) == ("problem", True)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)


def test_a_socket_that_waits_for_its_first_client_is_not_woken(place: Place) -> None:
    import socket

    place.stale_sockets = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as manager:
        manager.bind(str(Patient.here().places.socket))  # type: ignore[union-attr]
        manager.listen()
        manager.setblocking(False)
        (ok,) = found(daemon_check.daemon)
        assert (ok.level, ok.found) == ("ok", "none is running")
        with pytest.raises(BlockingIOError):
            manager.accept()
