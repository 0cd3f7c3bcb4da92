"""The doctor's look at what the system lets a daemon and its compiles have, and at what the dead have left."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit import autostart
from mlc_jit.locations import locate, private_folder
from mlc_jitd.build import owners
from mlc_jitd.doctor import leftovers, limits, places, service
from mlc_jitd.doctor.finding import Patient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.daemons import Daemon, Place
    from mlc_jitd.doctor.finding import Finding

DOCTOR = [sys.executable, "-P", "-m", "mlc_jit", "doctor", "--json"]


def found(check: Callable[[Patient], Iterator[Finding]]) -> list[Finding]:
    findings = list(check(Patient.here()))
    assert all(each.remedy for each in findings if each.level != "ok")
    return findings


def report(*command: str) -> dict[str, list[dict[str, Any]]]:
    """The findings of a doctor that runs behind another command, by check."""
    done = subprocess.run([*command, *DOCTOR], capture_output=True, text=True, check=False)
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    assert done.returncode == any(each["level"] == "problem" for rows in by_check.values() for each in rows), (
        done.stderr
    )
    return by_check


# --- limits ---------------------------------------------------------------------------------------------------------


def test_no_limit_is_one_line() -> None:
    (ok,) = found(limits.limits)
    assert (ok.check, ok.level) == ("limits", "ok"), ok


@pytest.mark.parametrize(
    ("limit", "value", "level", "says"),
    [
        (resource.RLIMIT_NOFILE, 512, "note", "a process may have 512 files open"),
        (resource.RLIMIT_AS, 4 << 30, "note", "address space is limited to 4.0 GiB"),
        (resource.RLIMIT_FSIZE, 1 << 20, "problem", "a file may have 1 MiB"),
        (resource.RLIMIT_CPU, 60, "note", "60 s of processor time"),
    ],
)
def test_each_limit_that_is_too_small_is_named(
    monkeypatch: pytest.MonkeyPatch, limit: int, value: int, level: str, says: str
) -> None:
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda which: (value, value) if which == limit else real(which))
    (slip,) = found(limits.limits)
    assert (slip.level, says in slip.found) == (level, True), slip


def test_the_pids_of_a_control_group_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("80\n")

    class Here:
        folder, name = tmp_path, "box"

    monkeypatch.setattr(limits.Groups, "of", lambda *_: (Here,))
    (slip,) = found(limits.limits)
    assert (slip.level, "100 processes and has 80" in slip.found) == ("problem", True)


def test_under_a_real_ulimit() -> None:
    (slip,) = report("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")["limits"]
    assert (slip["level"], slip["facts"]["descriptors"]) == ("note", 256)


# --- watches --------------------------------------------------------------------------------------------------------


def test_watches_are_tried() -> None:
    (ok,) = found(limits.watches)
    assert ok.level == "ok"
    assert "watched by events" in ok.found


@pytest.mark.parametrize(("limit", "error"), [("instances", errno.EMFILE), ("watches", errno.ENOSPC)])
def test_where_inotify_is_used_up(limit: str, error: int) -> None:
    """For real: limits of a user namespace."""
    command = f'echo 0 > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    inside = ["unshare", "-U", "-r", "sh", "-c", command, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no user namespace can be made here")
    (note,) = report(*inside)["watches"]
    assert (note["level"], note["facts"]["errno"]) == ("note", error)
    assert f"fs.inotify.max_user_{limit}" in note["remedy"]


# --- what the dead left ----------------------------------------------------------------------------------------------


def test_a_socket_that_nobody_listens_at(daemon: Daemon, place: Place) -> None:
    assert found(leftovers.leftovers)[0].level == "ok", "a daemon listens"
    daemon.kill()
    (note,) = found(leftovers.leftovers)
    assert (note.level, note.facts["sockets"]) == ("note", 1)
    assert note.follows == "the next daemon replaces it"
    place.stale_sockets = True


def test_a_service_managers_socket_is_no_leftover(place: Place, mlc_jit: Callable[..., Any]) -> None:
    mlc_jit("service", "install")
    private_folder(place.runtime)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(locate().socket))
        assert found(leftovers.leftovers)[0].level == "ok"
    locate().socket.unlink()


def test_processes_of_a_killed_daemon(place: Place) -> None:
    mine = owners.name_of(place.cache)
    living, dead = (subprocess.Popen(["sleep", "100"], env={owners.OWNER: name}) for name in (mine, f"{mine}0"))
    try:
        (note,) = found(leftovers.leftovers)
        assert (note.level, note.facts["processes"]) == ("note", 1), note
        assert f"(pid {dead.pid})" in note.found
        assert living.poll() is dead.poll() is None, "it ends nothing"
    finally:
        for each in (living, dead):
            each.kill()
            each.wait()


# --- who starts, what runs, who may write -----------------------------------------------------------------------------


def test_a_client_that_hangs_while_it_starts_a_daemon(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PATIENCE_SECONDS", 0.2)
    private_folder(place.runtime)
    assert found(service.locks) == []
    with autostart.FileLock(locate().start_lock):
        (note,) = found(service.locks)
    assert (note.level, note.facts["pid"]) == ("note", str(os.getpid()))
    assert "starting a daemon" in note.found


def test_a_service_of_another_version(monkeypatch: pytest.MonkeyPatch, mlc_jit: Callable[..., Any]) -> None:
    mlc_jit("service", "install")
    monkeypatch.setattr(service, "_states", dict)
    assert [each.level for each in found(service.service)] == ["ok"], "asked for real: it is this one"
    monkeypatch.setattr(service, "__version__", "9.0")
    (note,) = found(service.service)
    assert (note.level, "runs mlc-jitd 0.1.0" in note.found) == ("note", True)


def test_a_file_with_settings_that_others_may_write(place: Place) -> None:
    assert found(places.settings) == []
    place.config.chmod(0o666)
    (note,) = found(places.settings)
    assert (note.level, "chmod go-w" in note.remedy) == ("note", True)
