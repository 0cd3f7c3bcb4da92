"""The files of the mlc-jitd that serves all users of a host: what they say and where they go, below any root folder.

The templates are ``systemd/system/`` of the repository. What does not belong here: running commands
(``cli/hostservice.py``), and the service of one user (``services``).
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from mlc_jit import services
from mlc_jit.services import MARK, NAME, SERVICE, SOCKET

SLASH = Path("/")
USER = NAME
CONF = f"{NAME}.conf"
CACHE = Path("/var/cache") / NAME
CONFIG = Path("/etc") / NAME / "config.toml"
"""The host's settings, which a daemon reads wherever it comes from."""

_TEMPLATES = {
    Path("/etc/sysusers.d") / CONF: f"{NAME}.sysusers.conf",
    Path("/etc/tmpfiles.d") / CONF: f"{NAME}.tmpfiles.conf",
    Path("/etc/systemd/system") / SOCKET: SOCKET,
    Path("/etc/systemd/system") / SERVICE: SERVICE,
}
_HEAD = f"# {MARK} with --system, which overwrites it; uninstall removes it.\n"
_PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - nothing is written there
"""Folders of which the unit has its own (``PrivateTmp``)."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why an interpreter can't run the host's daemon, and what to do."""

    why: str
    remedy: str


def below(root: Path, path: Path) -> Path:
    """An absolute path in the tree whose root is ``root``."""
    return root / path.relative_to(SLASH)


def files(root: Path = SLASH, python: str | None = None) -> dict[Path, str]:
    """The files that are ours from their first to their last letter, with their contents.

    Args:
        root: The tree that they are written into.
        python: What runs the daemon, as seen from within that tree; this interpreter by default.
    """
    words = services.command()
    words[0] = python or interpreter(root)
    command = services.command_line(words)
    found = {}
    for path, name in _TEMPLATES.items():
        text = services.template("systemd/system", name).replace("@COMMAND@", command)
        body = text[text.index("[Unit]") :] if "[Unit]" in text else text
        found[below(root, path)] = _HEAD + body
    return found


def starting_config() -> str:
    """What the host's settings say where there are none yet: nothing, with examples."""
    return services.template("systemd/system", "config.toml")


def interpreter(root: Path) -> str:
    """This interpreter, as seen from within a tree that it may lie in."""
    own = Path(sys.executable)
    return os.fspath(SLASH / own.relative_to(root)) if own.is_relative_to(root) else sys.executable


def absent(root: Path) -> Doubt | None:
    """Why a tree can't run the service that is written into it; nothing if it can."""
    python = interpreter(root)
    if os.path.lexists(below(root, Path(python))):  # a link leads elsewhere from here than from within
        return None
    return Doubt(f"there is no {python} in {root}", "Install mlc-jitd there too, or run the mlc-jit of that tree.")


def installed(root: Path = SLASH) -> services.Installed | None:
    """What the files in a tree say; None if there are no units."""
    units = {path.name: path for path in files(root)}
    paths = tuple(path for path in (units[SOCKET], units[SERVICE]) if path.is_file())
    return services.read_units(paths) if paths else None


def misfits(found: services.Installed, root: Path = SLASH) -> list[str]:
    """Why what is installed can't serve."""
    slips = []
    here = {path.name for path in found.paths}
    missing = [path for path in files(root) if path.name not in here and not path.is_file()]
    if missing:
        slips.append(f"missing: {', '.join(map(os.fspath, missing))}")
    if found.python and not os.path.lexists(below(root, Path(found.python))):  # a link's end is another tree's
        slips.append(f"its interpreter {found.python} is gone")
    elif found.python and root == SLASH and (doubt := unsafe(found.python)) is not None:
        slips.append(f"its interpreter can't serve others: {doubt.why}")
    if root == SLASH and not user_exists():
        slips.append(f"there is no user {USER}")
    return slips


def user_exists() -> bool:
    """Whether the service's user is known here."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def unsafe(python: str, private: tuple[Path, ...] = _PRIVATE) -> Doubt | None:
    """Why the service's user can't run an interpreter, or should not; nothing if it may.

    It, what it links to, and each folder above both has to be root's, closed to others' writing (a sticky folder aside)
    and open to their looking. Its packages are not looked at.

    Args:
        python: An absolute path.
        private: Folders that the service does not see.
    """
    named, real = Path(os.path.abspath(python)), Path(python).resolve()  # noqa: PTH100 - links stay
    for path in dict.fromkeys((real, *real.parents, *named.parents)):
        if path in private:
            return Doubt(f"{python} lies in {path}, of which the service has one of its own", _ELSEWHERE)
        try:
            about = path.stat()
        except OSError as error:
            return Doubt(f"{path}: {error.strerror}", _ELSEWHERE)
        writers = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if about.st_uid != 0:
            return Doubt(f"{path} belongs to uid {about.st_uid}, who could replace what the service runs", _ELSEWHERE)
        if writers and (path == real or not about.st_mode & stat.S_ISVTX):
            return Doubt(f"{path} can be written by others, who could replace what the service runs", _ELSEWHERE)
        if not about.st_mode & stat.S_IXOTH:
            return Doubt(f"{path} is closed to the service's user (mode {stat.S_IMODE(about.st_mode):04o})", _ELSEWHERE)
    return None


_ELSEWHERE = (
    "Install mlc-jitd as root where all may look, for example: python3 -m venv /opt/mlc-jitd && "
    "/opt/mlc-jitd/bin/pip install ./mlc-jitd"
)
