"""The units and the agent: what systemd and launchd make of them, and that `mlc-jit service` fills them in right."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_jit import autostart, hostservice, services
from mlc_jit.locations import locate

ROOT = Path(__file__).parents[1]
EXPOSURE = {"user": 70, "system": 25}
"""The most that `systemd-analyze security` may say, in tenths: what a manager without privileges can't do, and what
compilers need, is left open (docs/services.md)."""

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")


def filled(kind: str, folder: Path) -> list[Path]:
    """The units of one kind, ready to be looked at."""
    if kind == "user":
        files = services.files(locate(), {**os.environ, "XDG_CONFIG_HOME": str(folder)}, "linux")
    else:
        units = {path.name: text for path, text in hostservice.files().items() if path.match("systemd/system/*")}
        files = {folder / name: units[name] for name in (services.SOCKET, services.SERVICE)}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(files)


def run_analyze(kind: str, tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return subprocess.run(
        ["systemd-analyze", *(["--user"] if kind == "user" else []), *map(str, words)],
        env={"XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@analyze
@pytest.mark.parametrize("kind", ["user", "system"])
def test_the_systemd_units_verify(kind, tmp_path):
    done = run_analyze(kind, tmp_path, "verify", "--man=no", *filled(kind, tmp_path / "units"))
    assert done.returncode == 0, done.stderr
    assert "mlc-jitd." not in done.stderr, done.stderr


@analyze
@pytest.mark.parametrize("kind", ["user", "system"])
def test_the_services_are_not_exposed_more_than_stated(kind, tmp_path):
    unit = filled(kind, tmp_path / "units")[1]
    done = run_analyze(kind, tmp_path, "security", "--offline=true", f"--threshold={EXPOSURE[kind]}", unit)
    assert done.returncode == 0, done.stdout[-600:] + done.stderr
    assert f"{EXPOSURE[kind] / 10}" in (ROOT / "docs" / "services.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed here")
def test_the_service_user_can_be_made():
    file = ROOT / "systemd" / "system" / "mlc-jitd.sysusers.conf"
    done = subprocess.run(["systemd-sysusers", "--dry-run", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip() or "mlc-jitd" in done.stdout + done.stderr


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    odd = tmp_path / 'a "b" 100% $HOME'
    odd.mkdir()
    monkeypatch.setenv("MLC_LLM_HOME", str(odd))
    monkeypatch.setenv("MLC_JITD_RUNTIME_DIR", str(tmp_path / "r 50%"))
    for platform in ("linux", "darwin"):
        places = locate()
        for path, text in services.files(places, platform=platform).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            assert services.ours(path)
        found = services.installed(platform=platform)
        assert found is not None
        assert (found.socket, found.home, found.python) == (str(places.socket), str(odd), sys.executable)


def test_the_users_file_is_found_by_a_daemon_that_is_started_elsewhere(tmp_path, monkeypatch):
    """A service, or a daemon that detaches itself, runs in another folder and with few variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MLC_JITD_CONFIG", "here.toml")
    for variables in (autostart._environment(locate()), services.environment(locate())):
        assert variables["XDG_CONFIG_HOME"] == str(tmp_path / "config")
        assert variables["MLC_JITD_CONFIG"] == str(tmp_path / "here.toml")
    assert autostart._is_ours("XDG_CONFIG_HOME"), "systemd-run passes it on"
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    assert "XDG_CONFIG_HOME" not in services.environment(locate())


def test_a_strange_name_reaches_the_daemon_whole(tmp_path, monkeypatch):
    """As systemd itself reads it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    odd = tmp_path / "a 'b' 100% c;d"
    odd.mkdir()
    monkeypatch.setenv("MLC_LLM_HOME", str(odd))
    done = run_analyze("user", tmp_path, "verify", "--man=no", *filled("user", tmp_path / "units"))
    assert done.returncode == 0, done.stderr
    assert "mlc-jitd." not in done.stderr, done.stderr


def test_the_launchd_agent_has_the_right_shape():
    for text in (
        (ROOT / "launchd" / "mlc-jitd.plist").read_text(),
        *services.files(locate(), platform="darwin").values(),
    ):
        agent = plistlib.loads(text.encode())
        assert agent["Label"] == "mlc-jitd"
        assert all(isinstance(word, str) for word in agent["ProgramArguments"])
        assert agent["ProgramArguments"][0].startswith("/")
        assert agent["ProgramArguments"][-2:] == ["run", "--on-demand"]
        assert agent["KeepAlive"] == {"SuccessfulExit": False}
        listener = agent["Sockets"]["Listeners"]
        assert listener["SockPathName"].startswith("/")
        assert (listener["SockType"], listener["SockFamily"], listener["SockPathMode"]) == ("stream", "Unix", 0o600)
        assert all(isinstance(value, str) for value in agent["EnvironmentVariables"].values())
        assert agent["RunAtLoad"] is True


def test_the_name_of_the_socket_in_the_agent_is_the_one_that_the_daemon_asks_for():
    from mlc_jitd import activation

    agent = plistlib.loads((ROOT / "launchd" / "mlc-jitd.plist").read_bytes())
    assert list(agent["Sockets"]) == [activation.NAME]


# --- the command ----------------------------------------------------------------------------------------------------


def units(place) -> Path:
    return place.home / ".config" / "systemd" / "user"


def test_install_says_what_it_wrote_and_what_is_next(mlc_jit, place):
    dry = mlc_jit("service", "install", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not units(place).exists()
    assert f"ListenStream={locate().socket}" in dry.stdout
    done = mlc_jit("service", "install")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in units(place).iterdir()} == {services.SOCKET, services.SERVICE}
    assert "systemctl --user enable --now mlc-jitd.socket" in done.stdout
    assert "unchanged" in mlc_jit("service", "install").stdout
    assert place.daemons() == []


def test_without_a_manager_nothing_is_pretended(mlc_jit, place):
    done = mlc_jit("service", "install", "--now")
    assert done.returncode == 1
    assert "No service manager" in done.stdout
    assert "systemctl --user enable" in done.stdout, "for when there is one"
    shown = json.loads(mlc_jit("service", "status", "--json").stdout)
    assert (shown["installed"], shown["states"], shown["socket"]) == (True, {}, str(locate().socket))


def test_status_names_what_does_not_fit(mlc_jit, place):
    assert "No service" in mlc_jit("service", "status").stdout
    mlc_jit("service", "install")
    assert mlc_jit("service", "status").returncode == 0
    other = mlc_jit("service", "status", MLC_LLM_HOME=str(place.folder("other")))
    assert other.returncode == 1
    assert "it listens at" in other.stdout


def test_a_file_of_somebody_else_is_left_alone(mlc_jit, place):
    units(place).mkdir(parents=True)
    theirs = units(place) / services.SERVICE
    theirs.write_text("[Service]\nExecStart=/bin/true\n")
    done = mlc_jit("service", "install")
    assert done.returncode == 2
    assert str(theirs) in done.stderr
    assert "left alone" in mlc_jit("service", "uninstall").stdout
    assert theirs.exists()


def test_uninstall_removes_what_install_wrote(mlc_jit, place):
    mlc_jit("service", "install")
    assert "would remove" in mlc_jit("service", "uninstall", "--dry-run").stdout
    assert len(list(units(place).iterdir())) == 2
    assert mlc_jit("service", "uninstall").stdout.count("removed") == 2
    assert list(units(place).iterdir()) == []


def test_a_service_says_where_its_log_is(tmp_path, monkeypatch):
    """`mlc-jit status` shows it: the journal, where standard error leads there."""
    from mlc_jitd import service

    about = os.fstat(2)
    monkeypatch.setattr(service, "CGROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("1:name=systemd:/user.slice/user@7.service/app.slice/mlc-jitd.service\n0::/x\n")
    assert service.journal({}) == ""
    assert service.journal({"JOURNAL_STREAM": "1:2"}) == "", "somebody took the stream away since"
    stream = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
    assert service.journal(stream) == "journalctl --user -u mlc-jitd"
    (tmp_path / "cgroup").write_text("0::/system.slice/mlc-jitd.service\n")
    assert service.journal(stream) == "journalctl -u mlc-jitd"
