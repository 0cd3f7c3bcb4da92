"""``mlc-jit service --system``: what it writes, runs and leaves, in a tree of its own and, as root, in /etc itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mlc_jit import cli, hostservice, services
from mlc_jit.cli import hostservice as verb
from mlc_jitd.config import gather

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

WRITTEN = {
    "etc/sysusers.d/mlc-jitd.conf",
    "etc/tmpfiles.d/mlc-jitd.conf",
    "etc/systemd/system/mlc-jitd.socket",
    "etc/systemd/system/mlc-jitd.service",
    "etc/mlc-jitd/config.toml",
}
WANTED = "etc/systemd/system/sockets.target.wants/mlc-jitd.socket"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="system mode is for Linux")
systemd = pytest.mark.skipif(
    shutil.which("systemctl") is None or shutil.which("systemd-sysusers") is None,
    reason="systemctl and systemd-sysusers are not installed here",
)


def tree(root: Path) -> set[str]:
    """Every file and link below a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()}


def below_home(place, *names: str) -> Path:
    """A tree that has an interpreter where the service will look for it."""
    root = place.folder("image")
    for name in (sys.executable, *names):
        path = hostservice.below(root, Path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def analyze(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


# --- a tree ---------------------------------------------------------------------------------------------------------


@systemd
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_takes_the_very_files_that_are_written(mlc_jit: Run, place, tmp_path):
    root = below_home(place)
    assert mlc_jit("service", "install", "--system", "--root", str(root)).returncode == 0
    units = [root / "etc/systemd/system" / name for name in (services.SOCKET, services.SERVICE)]
    done = analyze(tmp_path, "verify", "--man=no", *units)
    assert done.returncode == 0, done.stderr
    assert "mlc-jitd." not in done.stderr, done.stderr
    exposed = analyze(tmp_path, "security", "--offline=true", "--threshold=25", units[1])
    assert exposed.returncode == 0, exposed.stdout[-600:] + exposed.stderr


@systemd
def test_an_image_gets_the_files_the_user_and_the_socket(mlc_jit: Run, place):
    root = below_home(place)
    done = mlc_jit("service", "install", "--system", "--root", str(root))
    assert done.returncode == 0, done.stdout + done.stderr
    assert WRITTEN | {WANTED} <= tree(root)
    assert all((root / name).stat().st_mode & 0o777 == 0o644 for name in WRITTEN)
    assert "mlc-jitd:" in (root / "etc/passwd").read_text()
    assert "mlc-jitd:" in (root / "etc/group").read_text()
    assert all(f"wrote      {root / name}" in done.stdout for name in WRITTEN)
    assert f"ran        systemctl --root={root} enable mlc-jitd.socket" in done.stdout
    again = mlc_jit("service", "install", "--system", "--root", str(root))
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("unchanged") == 4
    assert f"kept       {root / 'etc/mlc-jitd/config.toml'}" in again.stdout
    shown = json.loads(mlc_jit("service", "status", "--system", "--json", "--root", str(root)).stdout)
    assert (shown["socket"], shown["home"], shown["python"], shown["problems"]) == (
        "/run/mlc-jitd/mlc-jitd.sock", "/var/cache/mlc-jitd", sys.executable, [],
    )  # fmt: skip


@systemd
def test_uninstall_leaves_the_cache_and_whatever_is_not_ours(mlc_jit: Run, place):
    theirs = (
        "/var/cache/mlc-jitd/model_lib/x.so",
        "/etc/systemd/system/mlc-jitd.service.d/override.conf",
        "/etc/systemd/system/other.socket",
    )
    root = below_home(place, *theirs)
    before = tree(root)
    mlc_jit("service", "install", "--system", "--root", str(root))
    dry = mlc_jit("service", "uninstall", "--system", "--dry-run", "--root", str(root))
    assert dry.stdout.count("would remove") == len(WRITTEN)
    assert tree(root) >= WRITTEN
    done = mlc_jit("service", "uninstall", "--system", "--root", str(root))
    assert done.returncode == 0, done.stdout + done.stderr
    users = {f"etc/{name}" for name in ("passwd", "group", "shadow", "gshadow", ".pwd.lock")}
    assert tree(root) - users == before
    assert not (root / "etc/mlc-jitd").exists()
    assert f"The cache in {root / 'var/cache/mlc-jitd'}" in done.stdout
    assert "No service" in mlc_jit("service", "uninstall", "--system", "--root", str(root)).stdout


@systemd
def test_settings_that_somebody_wrote_are_neither_replaced_nor_removed(mlc_jit: Run, place):
    root = below_home(place, "/etc/mlc-jitd/config.toml")
    config = root / "etc/mlc-jitd/config.toml"
    config.write_text("users = ['alice']\n")
    assert f"kept       {config}" in mlc_jit("service", "install", "--system", "--root", str(root)).stdout
    assert f"since it was changed  {config}" in mlc_jit("service", "uninstall", "--system", "--root", str(root)).stdout
    assert config.read_text() == "users = ['alice']\n"


def test_a_unit_of_somebody_else_is_left_alone(mlc_jit: Run, place):
    root = below_home(place, "/etc/systemd/system/mlc-jitd.service")
    theirs = root / "etc/systemd/system/mlc-jitd.service"
    done = mlc_jit("service", "install", "--system", "--root", str(root))
    assert done.returncode == 2
    assert str(theirs) in done.stderr
    assert "left alone" in mlc_jit("service", "uninstall", "--system", "--root", str(root)).stdout
    assert theirs.exists()
    assert not WRITTEN - {"etc/systemd/system/mlc-jitd.service"} & tree(root), "nothing is half installed"


def test_a_command_that_fails_is_named_and_left_to_do(mlc_jit: Run, place):
    empty = place.folder("no commands")
    done = mlc_jit("service", "install", "--system", "--root", str(below_home(place)), PATH=str(empty))
    assert done.returncode == 1
    assert "FAILED     systemd-sysusers" in done.stdout
    assert "enable mlc-jitd.socket" in done.stdout.partition("Next:")[2]
    assert done.stdout.count("FAILED") == 1, "what comes after is not tried"


@systemd
def test_a_tree_without_the_interpreter_is_told_of(mlc_jit: Run, place):
    root = place.folder("bare")
    assert "PROBLEM: there is no" in mlc_jit("service", "install", "--system", "--root", str(root)).stdout
    status = mlc_jit("service", "status", "--system", "--root", str(root))
    assert status.returncode == 1
    assert "is gone" in status.stdout
    assert hostservice.interpreter(Path(sys.executable).parents[1]) == f"/bin/{Path(sys.executable).name}"


# --- this system ----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_files_and_commands_to_anybody(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = [path.exists() for path in hostservice.files()]
    assert cli.main(["service", "install", "--system", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert [path.exists() for path in hostservice.files()] == before
    assert all(f"  /{name}\n" in shown for name in WRITTEN)
    assert f"ExecStart={services.command_line(services.command())}" in shown
    assert "would run  systemd-sysusers mlc-jitd.conf" in shown


@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_who_is_not_root_is_given_the_line(what, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["service", what, "--system"]) == 2
    said = capsys.readouterr().err
    assert "by root" in said
    assert f"Run: sudo {Path(sys.executable).parent}/" in said
    assert f" service {what} --system" in said


def test_what_it_is_not_for_is_said(monkeypatch, capsys):
    assert cli.main(["service", "install", "--root", "/nowhere"]) == 2
    assert "--system alone" in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.main(["service", "status", "--system"]) == 2
    said = capsys.readouterr().err
    assert "not offered on this system (darwin)" in said
    assert "mlc-jit service install" in said


def test_the_commands_of_a_running_system_and_of_a_tree():
    slash, image = hostservice.SLASH, Path("/image")
    assert verb.install_steps(slash, booted=True) == [
        ["systemd-sysusers", "mlc-jitd.conf"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "mlc-jitd.socket"],
    ]
    assert verb.install_steps(slash, booted=True, changed=True)[-1] == ["systemctl", "try-restart", "mlc-jitd.service"]
    assert verb.install_steps(image, booted=False) == [
        ["systemd-sysusers", "--root=/image", "mlc-jitd.conf"],
        ["systemctl", "--root=/image", "enable", "mlc-jitd.socket"],
    ]
    assert verb.uninstall_steps(slash, booted=True)[0] == [
        "systemctl", "disable", "--now", "mlc-jitd.socket", "mlc-jitd.service",
    ]  # fmt: skip


IN_ETC = r"""
set -e
mount -t tmpfs tmpfs "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/bin"
mount -t overlay overlay -o lowerdir=/etc,upperdir="$SCRATCH/upper",workdir="$SCRATCH/work" /etc || exit 77
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
printf '#!/bin/sh\necho "$@" >> "$SCRATCH/said"\n' > "$SCRATCH/bin/systemctl"
chmod +x "$SCRATCH/bin/systemctl"
export PATH="$SCRATCH/bin:$PATH"
run() { "$PYTHON" -P -c '
import sys
from mlc_jit import cli, hostservice
hostservice.unsafe = lambda *_: None  # where the tests run from is not for others
sys.exit(cli.main(["service", sys.argv[1], "--system"]))' "$1"; }
(umask 077; run install)
id -un mlc-jitd
run status
setpriv --reuid mlc-jitd --regid mlc-jitd --clear-groups cat /etc/mlc-jitd/config.toml
mkdir /run/mlc-jitd
touch /run/mlc-jitd/mlc-jitd.sock
run uninstall
echo LEFT
ls /etc/systemd/system/mlc-jitd* /etc/mlc-jitd /etc/*.d/mlc-jitd.conf /run/mlc-jitd/* 2>/dev/null || true
echo SAID
cat "$SCRATCH/said"
"""


@systemd
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for a /etc of its own")
def test_as_root_where_systemd_runs_the_system(place):
    """With /etc and /run of its own and a systemctl that only says what it is asked; the user is really made."""
    environment = {**os.environ, "SCRATCH": str(place.folder("scratch")), "PYTHON": sys.executable}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", IN_ETC], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode == 77:
        pytest.skip(f"no overlay of /etc here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    installed, _, rest = done.stdout.partition("\nmlc-jitd\n")
    assert "ran        systemctl enable --now mlc-jitd.socket" in installed
    assert "PROBLEM" not in rest
    assert hostservice.starting_config() in rest, "as the service's user reads it"
    assert "removed  /etc/mlc-jitd/config.toml" in rest
    left, _, said = rest.partition("\nLEFT\n")[2].partition("SAID\n")
    assert left == ""
    assert [line for line in said.splitlines() if not line.startswith("is-")] == [
        "daemon-reload",
        "enable --now mlc-jitd.socket",
        "disable --now mlc-jitd.socket mlc-jitd.service",
        "daemon-reload",
    ]


# --- what stands in the files ---------------------------------------------------------------------------------------


def test_the_starting_settings_are_settings(tmp_path):
    text = hostservice.starting_config()
    examples = "\n".join(line.removeprefix("#") if line[:2] not in ("# ", "#") else "" for line in text.splitlines())
    for number, each in enumerate((text, examples)):
        path = tmp_path / f"{number}.toml"
        path.write_text(each)
        found = gather({"MLC_JITD_CONFIG": str(path)})
        assert not found.slips
        assert found.settings.mode == "user", "users' own daemons read this file, too"
        assert [value.name for value in found.values if value.origin == "file"] == (
            ["users", "prewarmers", "admins", "toolchains"] if number else []
        )


def test_an_interpreter_that_others_could_replace_or_not_reach_is_refused(tmp_path, monkeypatch):
    owners: dict[Path, int] = {}
    real = Path.stat

    def stat(path: Path) -> SimpleNamespace:
        """As if all belonged to root that ``owners`` does not name, and what is above the test's folder were open."""
        mode = real(path).st_mode if path.is_relative_to(tmp_path) else 0o40755
        return SimpleNamespace(st_uid=owners.get(path, 0), st_mode=mode)

    def doubt(*private: Path) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", stat)
            found = hostservice.unsafe(str(folder / "python"), private)
        return found.why if found is not None else ""

    folder, python = tmp_path / "environment", tmp_path / "python3"
    folder.mkdir()
    python.touch()
    (folder / "python").symlink_to(python)
    for path in (tmp_path, folder, python):
        path.chmod(0o755)
    assert doubt() == ""
    assert "of which the service has one of its own" in doubt(tmp_path)
    for path in (folder, python, tmp_path):
        owners[path] = 1000
        assert f"{path} belongs to uid 1000" in doubt()
        owners.clear()
        path.chmod(0o775)
        assert f"{path} can be written by others" in doubt()
        path.chmod(0o700)
        assert f"{path} is closed to the service's user" in doubt()
        path.chmod(0o755)
    folder.chmod(0o1777)
    assert doubt() == "", "as /tmp: others can't replace what is in it"
    python.unlink()
    assert "No such file" in doubt()
