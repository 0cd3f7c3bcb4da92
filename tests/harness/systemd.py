"""A real ``systemd --user`` for one test, in namespaces of its own, and a program that runs under it.

The manager is started by ``user-systemd`` of the developers' shared folder; a test without it is skipped, and says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.leftovers import MARK

if TYPE_CHECKING:
    from harness.daemons import Place
    from harness.doubles import Double

REPOSITORY = Path(__file__).parents[2]

PREAMBLE = """
import json, os, pathlib, signal, subprocess, sys, time
KEEP = pathlib.Path(os.environ["KEEP"], "units")
os.environ.update(TMPDIR="/tmp", HOME="/tmp/home", MLC_LLM_HOME="/tmp/cache", MLC_DOUBLE_LOG="/tmp/double.log")
os.environ.update(XDG_RUNTIME_DIR="/run/user/0", USER="root")
os.chdir("/")
DOUBLE, SERVICE, SOCKET = pathlib.Path("/tmp/double.log"), "mlc-jitd.service", "mlc-jitd.socket"
DOUBLE.touch()
facts = {}

def mlc_jit(*words, **more):
    command = [sys.executable, "-P", "-m", "mlc_jit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **more})

def compiling(model):
    command = [sys.executable, "-P", "-m", "mlc_jit", "compile", str(model), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def path_of(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "without a daemon" not in err, err
    return out.strip()

def library(model):
    return path_of(compiling(model))

def systemctl(*words):
    return subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True, timeout=60).stdout.strip()

def show(what, unit=SERVICE):
    return systemctl("show", "--value", "-p", what, unit)

def until(condition, what="", limit=40):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, (what, systemctl("status", SERVICE), open("/tmp/manager.log").read()[-3000:])
        time.sleep(0.05)

def model(name, **told):
    folder = pathlib.Path("/tmp", name)
    folder.mkdir()
    config = json.loads((KEEP / "config.json").read_text())
    config.update(double=told, vocab_size=sum(map(ord, name)))
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    return folder

def starts():
    return DOUBLE.read_text().count(" start")

def main_pid():
    return int(show("MainPID") or 0)

def daemons():
    found = subprocess.run(["pgrep", "-f", "mlc_jitd run"], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found if name_of(pid) not in ("", "sh", "bash")]

def name_of(pid):
    try:
        return open(f"/proc/{pid}/comm").read().strip()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""

def installed():
    done = mlc_jit("service", "install", "--now")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

def override(**settings):
    folder = pathlib.Path("/tmp/home/.config/systemd/user/mlc-jitd.service.d")
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{name}={value}\\n" for name, value in settings.items())
    (folder / "test.conf").write_text(f"[Service]\\n{lines}")
    systemctl("daemon-reload")
"""
EPILOGUE = """
print("FACTS " + json.dumps(facts))
"""


def under_systemd(place: Place, double: Double, program: str) -> dict[str, Any]:
    """Run a Python program under a service manager; what it left in ``facts``."""
    shell = f'exec {sys.executable} -P "$KEEP/units/program.py"\n'
    done = run_under_systemd(place, double, shell, program=PREAMBLE + program + EPILOGUE)
    for line in done.stdout.splitlines():
        if line.startswith("FACTS "):
            found: dict[str, Any] = json.loads(line.removeprefix("FACTS "))
            return found
    raise AssertionError(done.stdout + done.stderr)


def run_under_systemd(
    place: Place, double: Double, shell: str, *, program: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a shell script under a service manager; ``$KEEP/units/config.json`` is a config of the double.

    One at a time on this host: managers in namespaces of their own still share the control groups of their units.
    """
    shared = Path(os.environ.get("MLC_JITD_SHARED") or REPOSITORY.parent / "shared")
    tool = shared / "tools" / "user-systemd"
    if os.getuid() != 0 or not tool.exists() or not Path("/lib/systemd/systemd").exists():
        pytest.skip("needs root, systemd and the tool user-systemd of the developers' folder (MLC_JITD_SHARED)")
    if any(str(path).startswith(("/tmp/", "/run/")) for path in (REPOSITORY, Path(sys.executable))):
        pytest.skip("the interpreter or the checkout lies in /tmp or /run, which the tool hides")
    keep = place.folder("units")
    shutil.copy(double.model() / "mlc-chat-config.json", keep / "config.json")
    (keep / "program.py").write_text(program)
    script = place.root / "test.sh"
    script.write_text(shell)
    clean = {"PATH": os.environ["PATH"], MARK: os.environ[MARK], **double.environment()}  # the manager's, too
    with tool.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(
            [tool, str(keep), str(keep), str(script)],
            capture_output=True, text=True, timeout=115, check=False, env=clean,
        )  # fmt: skip
