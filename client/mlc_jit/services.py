"""The files that make mlc-jitd a service of systemd or launchd: filled in for one user, interpreter and cache home.

The templates are ``systemd/`` and ``launchd/`` of the repository, which the wheel carries. What does not belong here:
running the managers' commands (``cli/service.py``, ``autostart``).
"""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jit.locations import Locations

NAME = "mlc-jitd"
SOCKET, SERVICE, AGENT = f"{NAME}.socket", f"{NAME}.service", f"{NAME}.plist"
MARK = "Written by `mlc-jit service install`"
"""Stands in every file that we wrote; one without it is somebody else's, and is left alone."""

CARRIED = ("MLC_JITD_RUNTIME_DIR", "MLC_JITD_SOCKET", "MLC_JITD_CONFIG")
"""Variables that decide where the daemon is; what is set when the files are written goes into them."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What the files on this host say.

    Attributes:
        paths: Those that are there.
        socket: Where the service manager is told to listen; empty if nowhere.
        python: The interpreter that is started.
        home: The cache home that is served.
    """

    paths: tuple[Path, ...]
    socket: str
    python: str
    home: str


def folder(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Where a user's service files lie."""
    env = os.environ if environ is None else environ
    home = Path(env.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if platform == "darwin":
        return home / "Library" / "LaunchAgents"
    base = env.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home / ".config") / "systemd" / "user"


def command() -> list[str]:
    """How the service starts the daemon: this interpreter, whatever PATH says there."""
    return [sys.executable, "-P", "-m", "mlc_jitd", "run", "--on-demand"]


def command_line(words: list[str]) -> str:
    """A command as a unit file's ``ExecStart`` has it."""
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def environment(places: Locations, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that lead the daemon to the same places as the clients of this environment."""
    env = os.environ if environ is None else environ
    carried = {name: os.path.abspath(env[name]) for name in CARRIED if env.get(name)}  # noqa: PTH100 - text stays text
    if env.get("XDG_CONFIG_HOME", "").startswith("/"):  # by its standard a relative one counts for nothing
        carried["XDG_CONFIG_HOME"] = env["XDG_CONFIG_HOME"]
    return {"MLC_LLM_HOME": os.fspath(places.home), **carried}


def files(places: Locations, environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> dict[Path, str]:
    """The files to write, with their contents."""
    where = folder(environ, platform)
    variables = environment(places, environ)
    if platform == "darwin":
        return {where / AGENT: agent(places, variables)}
    lines = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in variables.items())
    words = command_line(command())
    unit = template("systemd/user", SERVICE).replace("@COMMAND@", words).replace("@ENVIRONMENT@", lines)
    listen = template("systemd/user", SOCKET).replace("@SOCKET@", os.fspath(places.socket).replace("%", "%%"))
    head = f"# {MARK}, which overwrites it; `mlc-jit service uninstall` removes it.\n"
    return {where / name: head + text[text.index("[Unit]") :] for name, text in ((SOCKET, listen), (SERVICE, unit))}


def agent(places: Locations, variables: Mapping[str, str]) -> str:
    """The launchd agent."""
    found: dict[str, Any] = plistlib.loads(template("launchd", AGENT).encode())
    found["ProgramArguments"] = command()
    found["EnvironmentVariables"] = dict(variables)
    found["Sockets"]["Listeners"]["SockPathName"] = os.fspath(places.socket)
    found["StandardErrorPath"] = os.fspath(places.log)
    text = plistlib.dumps(found, sort_keys=False).decode()
    return text.replace("<plist ", f"<!-- {MARK}, which overwrites it. -->\n<plist ", 1)


def template(room: str, name: str) -> str:
    """A template's text, from the wheel or the checkout."""
    package = Path(__file__).parent
    for root in (package / "templates", package.parents[1]):
        path = root / room / name
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise FileNotFoundError(f"{room}/{name} is not part of this installation of mlc-jitd")


def installed(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Installed | None:
    """What the user's files say; None if there are none."""
    where = folder(environ, platform)
    names = (AGENT,) if platform == "darwin" else (SOCKET, SERVICE)
    paths = tuple(where / name for name in names if (where / name).is_file())
    if not paths:
        return None
    if platform == "darwin":
        return _installed_agent(paths[0])
    return read_units(paths)


def read_units(paths: tuple[Path, ...]) -> Installed:
    """What units say that we wrote."""
    texts = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    started = _words(_value(texts, "ExecStart=").replace("$$", "$"))
    homes = [word.partition("=")[2] for word in _variables(texts) if word.startswith("MLC_LLM_HOME=")]
    return Installed(
        paths,
        _value(texts, "ListenStream=").replace("%%", "%"),
        started[0] if started else "",
        homes[0] if homes else "",
    )


def misfits(found: Installed, socket: str, platform: str = sys.platform) -> list[str]:
    """Why an installed service does not serve the clients of this environment."""
    slips = []
    names = {AGENT} if platform == "darwin" else {SOCKET, SERVICE}
    missing = names - {path.name for path in found.paths}
    if missing:
        slips.append(f"{', '.join(sorted(missing))} is missing")
    if found.socket and found.socket != socket:
        slips.append(f"it listens at {found.socket}, and clients of this cache home look at {socket}")
    if found.python and not shutil.which(found.python):
        slips.append(f"its interpreter {found.python} is gone")
    return slips


def _installed_agent(path: Path) -> Installed:
    try:
        found = plistlib.loads(path.read_bytes())
        socket = found["Sockets"]["Listeners"]["SockPathName"]
        python, home = found["ProgramArguments"][0], found["EnvironmentVariables"]["MLC_LLM_HOME"]
    except (plistlib.InvalidFileException, ValueError, KeyError, TypeError, IndexError):
        return Installed((path,), "", "", "")
    return Installed((path,), str(socket), str(python), str(home))


def ours(path: Path) -> bool:
    """Whether a file was written by us, so that it may be overwritten or removed."""
    return MARK in path.read_text(encoding="utf-8", errors="replace")[:2000]


def _quoted(word: str) -> str:
    """A word of a unit file: specifiers and quotes escaped. Source: systemd.syntax(7)."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word}"' if any(each in word for each in " \t'\\;") else word


def _words(line: str) -> list[str]:
    """The reverse of ``_quoted``, for what we wrote."""
    try:
        return [word.replace("%%", "%") for word in shlex.split(line)]
    except ValueError:
        return []


def _value(text: str, key: str) -> str:
    found = [line.removeprefix(key).strip() for line in text.splitlines() if line.startswith(key)]
    return found[-1] if found else ""


def _variables(text: str) -> list[str]:
    lines = [line.removeprefix("Environment=") for line in text.splitlines() if line.startswith("Environment=")]
    return [word for line in lines for word in _words(line)]
