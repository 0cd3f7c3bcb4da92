"""The service of systemd or launchd, and locks whose holders do not get on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mlc_jit import channel, services
from mlc_jit._version import __version__
from mlc_jit.autostart import manager_environment
from mlc_jit.errors import JitError
from mlc_jit.held import is_held
from mlc_jitd.doctor.finding import Finding
from mlc_jitd.store.layout import Layout
from mlc_jitd.store.locks import KeyLocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

INSTALL = "Write its files anew: `mlc-jit service install --now`."
MANAGER_SECONDS = 10.0
PATIENCE_SECONDS = 3.0
"""A daemon that starts or ends holds its lock and does not listen for less than this."""


def service(patient: Patient) -> Iterator[Finding]:
    """Whether one is installed, fits the clients of this environment, and is in order."""
    found = services.installed(patient.environ)
    if found is None or patient.places is None:
        return
    slips = services.misfits(found, os.fspath(patient.places.socket))
    states = {} if sys.platform == "darwin" else _states()
    facts = {"socket": found.socket, "python": found.python, "home": found.home, "states": states}
    if slips:
        grave = not shutil.which(found.python) and states.get(services.SOCKET) == "active"
        yield Finding(
            check="service",
            level="problem" if grave else "note",
            found=f"the installed service does not fit: {'; '.join(slips)}",
            follows="clients wait for a daemon that can't start" if grave else "clients start a daemon of their own",
            remedy=INSTALL,
            facts=facts,
        )
        return
    failed = [unit for unit, state in states.items() if state == "failed"]
    if failed:
        yield Finding(
            check="service",
            level="problem",
            found=f"{' and '.join(failed)} failed",
            follows="clients start a daemon of their own",
            remedy=f"See `journalctl --user -u {failed[-1]}`, then `systemctl --user reset-failed {failed[-1]}` and "
            f"`systemctl --user start {services.SOCKET}`.",
            facts=facts,
        )
        return
    theirs = _version(found.python)
    if theirs not in ("", __version__):
        yield Finding(
            check="service",
            level="note",
            found=f"the installed service runs mlc-jitd {theirs} ({found.python})",
            follows=f"clients of this environment, {__version__}, use that",
            remedy=f"Upgrade it there, or have this one run it: {INSTALL[0].lower()}{INSTALL[1:]}",
            facts={**facts, "version": theirs},
        )
        return
    asleep = states.get(services.SOCKET) == "inactive"
    yield Finding(
        check="service",
        level="note" if asleep else "ok",
        found=f"installed for {found.socket}{', and not started' if asleep else ''}",
        follows="the next client has it started",
        remedy=f"`systemctl --user enable --now {services.SOCKET}` keeps it." if asleep else "",
        facts=facts,
    )


def _version(python: str) -> str:
    """Of the mlc-jitd that an interpreter has; empty where it can't be asked."""
    command = [python, "-P", "-c", "from mlc_jit._version import __version__; print(__version__)"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=MANAGER_SECONDS, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip()


def _states() -> dict[str, str]:
    """What systemd says of each unit; empty where it can't be asked."""
    states = {}
    for unit in (services.SOCKET, services.SERVICE):
        try:
            said = subprocess.run(
                ["systemctl", "--user", "is-active", unit],  # noqa: S607 - the user's own PATH
                capture_output=True, text=True, timeout=MANAGER_SECONDS, check=False, env=manager_environment(),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if said.stdout.strip():
            states[unit] = said.stdout.strip()
    return states


def locks(patient: Patient) -> Iterator[Finding]:
    """Locks that somebody holds who does not get on; the kernel takes back those of the dead."""
    places = patient.places
    if places is None:
        return
    if _silent_holder(places.lock, places.socket):
        pid = places.lock.read_bytes()[:20].decode(errors="replace").strip()
        yield Finding(
            check="locks",
            level="problem",
            found=f"the daemon's lock is held by {_process(pid)}, and nobody listens at {places.socket}",
            follows="no other daemon can start; clients go on without one, each in a process of its own",
            remedy=f"End it: `kill {pid or 'PID'}`, and `kill -9` if that does not help.",
            facts={"lock": str(places.lock), "pid": pid},
        )
    if _hanging_starter(places.start_lock, places.socket):
        pid = _holder(places.start_lock)
        yield Finding(
            check="locks",
            level="note",
            found=f"{_process(pid)} has been starting a daemon for a while, and none listens",
            follows="other clients wait for it (MLC_JITD_START_SECONDS), then go on without a daemon",
            remedy=f"Let it go on (`kill -CONT {pid or 'PID'}`), or end it.",
            facts={"lock": str(places.start_lock), "pid": pid},
        )
    folder, frozen = Layout.of(places.home).locks, []
    if folder.is_dir():
        known = KeyLocks(folder)
        held = [path.name for path in folder.iterdir() if len(path.name) == 64 and is_held(path)]  # noqa: PLR2004
        frozen = [(key, known.lock(key).frozen()) for key in held]
    for key, holder in frozen:
        if holder:
            yield Finding(
                check="locks",
                level="problem",
                found=f"the lock of {key[:12]} is held by {holder}, which is stopped",
                follows="whoever asks for this configuration waits",
                remedy="Let it go on (`kill -CONT`), or end it (`kill -9`).",
                facts={"key": key, "holder": holder},
            )


def _silent_holder(lock: Path, socket: Path) -> bool:
    """Whether the lock is held all the while, and nobody listens."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if not is_held(lock) or channel.reach(socket) == "up":
                return False
        except JitError:
            return False  # the daemon's own check has more to say
        if time.monotonic() > end:
            return True
        time.sleep(0.1)


def _hanging_starter(lock: Path, socket: Path) -> bool:
    """Whether a client holds the start lock all the while, and nobody listens."""
    return bool(is_held(lock)) and _silent_holder(lock, socket)


def _holder(lock: Path) -> str:
    """The pid that the kernel names as the holder of a lock; empty where it names none."""
    try:
        inode, rows = lock.stat().st_ino, Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    fields = (row.split() for row in rows)
    return next((row[4] for row in fields if row[1] == "FLOCK" and row[5].endswith(f":{inode}")), "")


def _process(pid: str) -> str:
    try:
        process = psutil.Process(int(pid))
        stopped = ", which is stopped" if process.status() == psutil.STATUS_STOPPED else ""
        return f"pid {pid} ({process.name()}{stopped})"
    except (ValueError, psutil.Error):
        return f"pid {pid}" if pid else "an unknown process"
