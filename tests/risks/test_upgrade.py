"""Risk: an upgrade leaves an old daemon behind, loses a request, or makes versions end each other's daemons."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until
from harness.releases import LOOKS, ROOT, STEADY, Installed
from mlc_jit.errors import DaemonUnavailableError
from mlc_jitd import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


def serving() -> str:
    """The version of the daemon that serves now."""
    try:
        return status().version
    except DaemonUnavailableError:
        return ""


@pytest.fixture
def release(place: Place) -> Callable[[str], Installed]:
    """Makes an installation of this checkout that says that it is some version."""

    def make(version: str) -> Installed:
        found = Installed(place.folder(f"site-{version}"))
        found.put_now(version=version)
        return found

    return make


@pytest.mark.timeout(60)
def test_an_upgrade_in_place_drains_and_loses_no_request(
    release: Callable[[str], Installed],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    place: Place,
) -> None:
    installation = release("1.0")
    daemon = start_daemon(LOOKS, **installation.variables)
    assert status().version == "1.0"
    gate, end = double.gate(), place.root / "end"
    hit = double.model("hit")
    path = client.ask(hit, **installation.variables).path()
    waiting = client.ask(double.model("slow", told={"wait_for": gate}), **installation.variables)
    until(lambda: len(double.starts()) == 2)
    steady = client.code(STEADY, installation.variables, model=hit, end=end)
    until(Path(f"{end}.steady").exists, what="a client that has asked before")
    installation.put_now(version="2.0")
    until(lambda: "installation was replaced" in daemon.log.read_text(), 30)
    until(lambda: place.daemons() != [daemon.pid], what="a successor", limit=30)
    until(lambda: serving() == "2.0", limit=30)
    assert daemon.process.poll() is None, "it has a compile to finish"
    gate.touch()
    assert Path(waiting.path()).is_file()
    assert daemon.process.wait(40) == 0
    end.touch()
    said = steady.answer()
    assert (said["paths"], said["said"]) == ([path], [])
    assert len(double.starts()) == 2
    assert len(place.daemons()) == 1, "one restart"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("daemons", "clients"), [("2.0", "1.0"), ("1.0", "2.0")])
def test_versions_on_one_host_share_the_daemon_that_is_there(
    daemons: str,
    clients: str,
    release: Callable[[str], Installed],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
) -> None:
    theirs, ours = release(daemons), release(clients)
    daemon = start_daemon(**theirs.variables)
    model = double.model()
    paths = {client.ask(model, **each.variables).path() for each in (ours, theirs, ours)}
    assert len(paths) == 1
    assert (status().pid, status().version) == (daemon.pid, daemons)
    assert daemon.process.poll() is None


def test_a_daemon_of_a_removed_installation_makes_room(
    release: Callable[[str], Installed], start_daemon: Callable[..., Daemon], double: Double
) -> None:
    installation = release("1.0")
    daemon = start_daemon(LOOKS, **installation.variables)
    shutil.rmtree(installation.folder)
    assert daemon.process.wait(40) == 0
    assert "installation was replaced" in daemon.log.read_text()


def test_nothing_is_concluded_while_an_installer_is_at_work(tmp_path: Path) -> None:
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in files:
        path.write_text("1")
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    installation = upgrade.Installation(files, python)
    assert [installation.replaced() for _ in range(3)] == ["", "", ""]
    files[0].unlink()
    assert installation.replaced() == ""
    files[0].write_text("22")
    assert installation.replaced() == ""
    files[1].write_text("22")
    assert installation.replaced() == ""
    assert installation.replaced() == f"{files[0]} and 1 more changed"


def test_another_python_behind_the_same_name_is_noticed(tmp_path: Path) -> None:
    python, other = tmp_path / "python", tmp_path / "python4"
    other.write_text("")
    python.symlink_to(sys.executable)
    installation = upgrade.Installation([], python)
    python.unlink()
    python.symlink_to(other)
    assert [bool(installation.replaced()) for _ in range(3)] == [False, True, True]


def test_what_this_process_runs_from_is_looked_at() -> None:
    looked_at = {name for name, _ in upgrade.Installation.own()._began}
    assert {
        str(ROOT / "daemon/mlc_jitd/upgrade.py"),
        str(ROOT / "client/mlc_jit/_version.py"),
        os.__file__,
    } <= looked_at
    assert str(Path(sys.executable).resolve()) in looked_at
