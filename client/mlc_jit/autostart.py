"""Start a daemon where none runs: one starter at a time, told how it went, and out of the starter's way.

Where the user has a service manager, the daemon becomes a service of its own (else it would live, and be counted and
killed, in the cgroup of the first client); elsewhere it detaches itself.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from mlc_jit.errors import DaemonUnavailableError, JitError, error_class
from mlc_jit.locations import Locations, private_folder, shun_system
from mlc_jit.reach import reach
from mlc_jit.settings import start_seconds
from mlc_jit.variables import without_startup

ANOTHER_RUNS = 3
"""Exit code of ``mlc-jitd run`` when a daemon of this home holds the lock already."""

ANOTHER_SECONDS = 6.0
"""How long a daemon that holds the lock and is not listening is waited for; longer than it takes to notice that."""

_NOT_FOR_THE_DAEMON = (
    "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
    "MLC_JITD_JOB", "MLC_JITD_OWNER",  # a daemon that a compiler started is no part of that compile
)  # fmt: skip


def ensure(places: Locations) -> None:
    """``_ensure``, with every trouble of the system (a full disk, no process to be had) as a declared error."""
    try:
        _ensure(places)
    except OSError as error:
        raise DaemonUnavailableError(f"No daemon could be started: {error}.", reason="start") from error


def _ensure(places: Locations) -> None:
    """Return when a daemon listens; start one if none does.

    Raises:
        DaemonUnavailableError: It could not be started; the message is the daemon's own where it left one.
        AccessRefusedError: A socket or folder there is not this user's; nothing is started over it.
        StoreUnwritableError: There is no place for the socket.
    """
    if reach(places.socket) == "up":
        return
    if places.system:
        shun_system()
        raise DaemonUnavailableError(
            f"Nobody listens at {places.socket}, the socket of this host's daemon.",
            remedy="Its administrator starts it: systemctl start mlc-jitd.socket. MLC_JITD_SYSTEM=off uses a daemon of "
            "your own.",
            reason="down",
        )
    private_folder(places.runtime)
    patience = start_seconds()
    try:
        with FileLock(places.start_lock, timeout=patience, mode=0o600):
            if reach(places.socket) == "down":
                _start(places)
    except Timeout as error:
        raise DaemonUnavailableError(
            f"Another process has been starting a daemon for {patience:.0f} s and did not succeed.",
            remedy=f"See {places.log}. MLC_JITD_START_SECONDS is the limit.",
            reason="start",
        ) from error


def _start(places: Locations) -> None:
    places.start_error.unlink(missing_ok=True)
    if _service_manager() and (_start_unit(places) or _start_as_service(places)) and _listening(places, 2.0):
        return
    deadline = time.monotonic() + ANOTHER_SECONDS
    while True:
        code = _start_detached(places)
        # Exit code 3: somebody holds the lock: a daemon that is about to listen, or one that is about to leave because
        # its socket was taken away, which it notices every few seconds.
        if _listening(places, 1.0 if code == ANOTHER_RUNS else 0.0):
            return
        if code != ANOTHER_RUNS or time.monotonic() > deadline:
            raise _reason(places)


def _start_detached(places: Locations) -> int:
    """Start a daemon that detaches itself; its exit code, 0 once it serves."""
    read_end, write_end = os.pipe()
    try:
        with places.log.open("ab") as log:
            process = subprocess.Popen(
                [*_command(places), "--detach", "--ready-fd", str(write_end)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(places),
                pass_fds=(write_end,),
                start_new_session=True,
            )
    finally:
        os.close(write_end)
    with process:
        said = _read_line(read_end)
        os.close(read_end)
        process.wait()
    return 0 if said == "ready" else int(said) if said.isdigit() else 1


def _read_line(fd: int) -> str:
    """What the daemon says when it is up or has failed; nothing after the time limit or if it just ended."""
    said = b""
    deadline = time.monotonic() + start_seconds()
    while not said.endswith(b"\n"):
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        ready = poll.poll(int(max(0.0, deadline - time.monotonic()) * 1000))
        chunk = os.read(fd, 64) if ready else b""
        if not chunk:
            break
        said += chunk
    return said.decode(errors="replace").strip()


def _start_unit(places: Locations) -> bool:
    """Start the service that `mlc-jit service install` wrote, if it is for this socket; whether it is ready."""
    from mlc_jit import services  # noqa: PLC0415 - one that runs already needs no look

    try:
        found = services.installed()
    except OSError:
        return False
    if found is None or found.socket != os.fspath(places.socket):
        return False
    return _managed(["systemctl", "--user", "start", services.SOCKET, services.SERVICE])


def _start_as_service(places: Locations) -> bool:
    """Have the user's systemd start it, and wait until it is ready; whether that went well."""
    unit = f"mlc-jitd-{places.lock.stem}-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
    settings = [f"--setenv={name}={value}" for name, value in _environment(places).items() if _is_ours(name)]
    command = [
        "systemd-run", "--user", "--quiet", "--collect", f"--unit={unit}", "--service-type=notify",
        "--property=KillMode=mixed", "--property=Delegate=yes", "--property=CPUWeight=10",
        "--description=mlc-jitd, the compile cache of MLC-LLM",
        "--setenv=MLC_JITD_CGROUP=own", *settings, "--", *_command(places),  # the caller's own comes later and wins
    ]  # fmt: skip
    return _managed(command)


def _managed(command: list[str]) -> bool:
    """Whether a command of the service manager went well."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=start_seconds(), check=False, env=manager_environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _is_ours(name: str) -> bool:
    return name.startswith(("MLC_", "XDG_CACHE", "XDG_CONFIG", "PYTHON")) or name in ("HOME", "PATH", "LANG")


def manager_environment() -> dict[str, str]:
    """An environment in which the user's service manager is found, whatever session this is."""
    return {**os.environ, "XDG_RUNTIME_DIR": os.fspath(_user_runtime())}


def _service_manager() -> bool:
    """Whether this user's systemd may be used to start a daemon."""
    return (
        os.environ.get("MLC_JITD_AUTOSTART", "") != "detached"
        and manager_runs()
        and shutil.which("systemd-run") is not None
    )


def manager_runs() -> bool:
    """Whether this user has a running systemd of their own."""
    return os.path.exists(_user_runtime() / "systemd" / "private")  # noqa: PTH110 - `su` may leave us another's folder


def _user_runtime() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")


def _command(places: Locations) -> list[str]:
    return [sys.executable, "-P", "-m", "mlc_jitd", "run", "--on-demand", "--log-file", os.fspath(places.log)]


def _environment(places: Locations) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_DAEMON}
    env["MLC_LLM_HOME"] = os.fspath(places.home)
    env["MLC_JITD_MODE"] = "user"  # a daemon of many users is started by its administrator, and by nobody else
    if env.get("MLC_JITD_CONFIG"):
        env["MLC_JITD_CONFIG"] = os.path.abspath(env["MLC_JITD_CONFIG"])  # noqa: PTH100 - it runs in another folder
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = without_startup(env["PYTHONPATH"])
    return env


def _listening(places: Locations, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while reach(places.socket) == "down":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _reason(places: Locations) -> JitError:
    try:
        facts = json.loads(places.start_error.read_text())
        cls = error_class(facts.get("kind", ""))
        return cls(str(facts["message"]), remedy=str(facts.get("remedy", "")), reason=str(facts.get("reason", "")))
    except (OSError, ValueError, KeyError):
        return DaemonUnavailableError(
            "The mlc-jitd daemon could not be started.", remedy=f"Its log is {places.log}.", reason="start"
        )
