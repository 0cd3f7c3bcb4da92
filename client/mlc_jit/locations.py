"""Where things are: the cache home, and the private folder that holds a daemon's socket, locks and log.

A daemon of one's own comes first, then the one that serves this host's users, if there is one and its socket lets this
user in; else a daemon of one's own is started. ``MLC_JITD_SOCKET`` beats all of this.

The socket must be found by every process of one user that uses one cache home, whether it came from a login shell, cron
or a service. XDG_RUNTIME_DIR differs between those, so the folder is named after the uid alone and the files in it
after the home's identity (device and inode).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import doorstep, environment
from mlc_jit.doorstep import SUN_PATH_BYTES
from mlc_jit.errors import AccessRefusedError, StoreUnwritableError

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_HOME = "no-home"

SYSTEM_SOCKET = Path("/run/mlc-jitd/mlc-jitd.sock")
"""Of the daemon that serves this host's users."""

_without_system = False


@dataclass(frozen=True, slots=True)
class Locations:
    """The paths of one daemon.

    Attributes:
        home: The cache home (``MLC_LLM_HOME``).
        runtime: The private folder of the socket, the locks and the log.
        socket: The daemon's socket.
        lock: Held by the daemon as long as it serves the socket.
        start_lock: Held by the client that is starting a daemon.
        log: Where a daemon writes that nobody's terminal or journal listens to.
        start_error: What kept the last daemon from starting.
        leases: Folder of what is in use, one file for each process that uses something.
        system: Whether the socket is that of the host's daemon, which this user neither starts nor replaces.
    """

    home: Path
    runtime: Path
    socket: Path
    lock: Path
    start_lock: Path
    log: Path
    start_error: Path
    leases: Path
    system: bool = False


def system_socket(environ: Mapping[str, str]) -> Path | None:
    """Where the host's daemon would be: ``MLC_JITD_SYSTEM``, else the usual place; ``None`` where it is ``off``."""
    text = environ.get("MLC_JITD_SYSTEM", "")
    return None if text.lower() in ("off", "0", "no") else Path(text) if text else SYSTEM_SOCKET


def shun_system() -> None:
    """Nobody listens at the host's socket: this process looks there no more."""
    global _without_system, _last
    _without_system, _last = True, None


def cache_home(environ: Mapping[str, str] | None = None) -> Path:
    """The cache home, by upstream's rule: MLC_LLM_HOME, else XDG_CACHE_HOME/mlc_llm, else ~/.cache/mlc_llm.

    Raises:
        StoreUnwritableError: None of these can be worked out.
    """
    home = doorstep.cache_home(os.environ if environ is None else environ)
    if home is None:
        raise StoreUnwritableError(
            "There is no home folder for this user, so no place for the cache of compiled libraries.",
            remedy="Set MLC_LLM_HOME to a folder that this user can write.",
            reason=NO_HOME,
        )
    return Path(home)


def made_home(environ: Mapping[str, str] | None = None) -> Path:
    """``cache_home``, made if it is not there.

    Raises:
        StoreUnwritableError: It can't be; ``reason`` is ``no-home``: nobody could put a library there.
    """
    home = cache_home(environ)
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.stat()
    except OSError as error:
        raise StoreUnwritableError(
            f"The cache home {home} can't be used: {error.strerror or error}.",
            remedy="Set MLC_LLM_HOME to a folder that this user can write.",
            reason=NO_HOME,
        ) from error
    return home


def locate(environ: Mapping[str, str] | None = None) -> Locations:
    """The paths of the daemon for this user and cache home; makes the home folder, nothing else.

    Args:
        environ: Variables to go by instead of the process's own: MLC_LLM_HOME, XDG_CACHE_HOME, MLC_JITD_SOCKET,
            MLC_JITD_RUNTIME_DIR.

    Raises:
        StoreUnwritableError: The home can't be made.
        AccessRefusedError: The socket's path is too long for the system.
    """
    if environ is None:
        return _locate_own()
    return _locate(environ)


def _locate_own() -> Locations:
    """``_locate`` for this process, remembered while the variables and the home's inode are what they were."""
    global _last  # noqa: PLW0603
    state = environment.state()
    last = _last
    if last is not None and last[0] is state:
        try:
            about = os.stat(last[2])  # noqa: PTH116 - on the hit path
        except OSError:
            about = None
        if about is not None and (about.st_dev, about.st_ino) == last[1]:
            return last[3]
    places = _locate(os.environ)
    about = places.home.stat()
    _last = (state, (about.st_dev, about.st_ino), os.fspath(places.home), places)
    return places


_last: tuple[environment.State, tuple[int, int], str, Locations] | None = None


def _locate(env: Mapping[str, str]) -> Locations:
    home = made_home(env)
    about = home.stat()
    found = doorstep.Doorstep(os.fspath(home), (about.st_dev, about.st_ino), env)
    socket = Path(found.socket)
    host = None if found.named or _without_system else system_socket(env)
    if host is not None and os.access(host, os.W_OK) and not socket.exists():
        socket = host
    if len(os.fsencode(socket)) >= SUN_PATH_BYTES:
        raise AccessRefusedError(
            f"The socket path {socket} has {len(os.fsencode(socket))} bytes; the system allows {SUN_PATH_BYTES - 1}.",
            remedy="Set MLC_JITD_SOCKET or MLC_JITD_RUNTIME_DIR to something shorter.",
        )
    stem = found.stem
    return Locations(
        home=home,
        runtime=Path(found.runtime),
        socket=socket,
        lock=Path(f"{stem}.lock"),
        start_lock=Path(f"{stem}.start"),
        log=Path(f"{stem}.log"),
        start_error=Path(f"{stem}.error"),
        leases=Path(f"{stem}.leases"),
        system=socket is host,
    )


def default_runtime() -> Path:
    """``/tmp/mlc-jitd-UID``: the same for every process of the user, and short."""
    return Path(doorstep.default_runtime())


def private_folder(path: Path) -> None:
    """Make a folder that only this user can enter, or check that an existing one is so.

    Raises:
        AccessRefusedError: It is a link, belongs to somebody else, or others may write to it.
        StoreUnwritableError: It can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.lstat()
    except OSError as error:
        raise StoreUnwritableError(
            f"The folder {path} for mlc-jitd's socket and locks can't be made: {error.strerror or error}.",
            remedy="Set MLC_JITD_RUNTIME_DIR to a folder on a local disk that this user can write.",
        ) from error
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        what = "is not a folder" if not stat.S_ISDIR(about.st_mode) else f"belongs to uid {about.st_uid}"
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
            what = f"has mode {stat.S_IMODE(about.st_mode):04o}, so others may write to it"
        raise AccessRefusedError(
            f"{path} {what}; mlc-jitd does not trust a socket in it.",
            remedy=f"Remove it, or `chmod 700 {path}`, or set MLC_JITD_RUNTIME_DIR to a private folder.",
        )
