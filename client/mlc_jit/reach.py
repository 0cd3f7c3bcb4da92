"""Whether a daemon of this user listens at a path, without a word said to it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Literal

from mlc_jit.errors import AccessRefusedError

if TYPE_CHECKING:
    import socket
    from pathlib import Path

Reach = Literal["up", "down"]


def served(path: Path) -> bool:
    """Whether a daemon holds the lock beside the socket; to connect would have a service manager start one.

    True where that can't be told: the lock of a socket that was named on purpose lies elsewhere.
    """
    if os.environ.get("MLC_JITD_SOCKET") or _is_hosts(path):
        return True
    from mlc_jit.held import is_held  # noqa: PLC0415 - not for a hit

    return is_held(path.with_suffix(".lock")) is not False


def _is_hosts(path: Path) -> bool:
    """Whether the host's daemon is expected at the path."""
    from mlc_jit.locations import system_socket  # noqa: PLC0415 - not for a hit

    return path == system_socket(os.environ)


def reach(path: Path) -> Reach:
    """Whether a daemon of this user listens at the path.

    Raises:
        AccessRefusedError: Somebody listens whom this user may not reach or should not trust.
    """
    import socket  # noqa: PLC0415 - once for a connection, not for a hit

    host = not os.environ.get("MLC_JITD_SOCKET") and _is_hosts(path)
    if not host:
        _require_private(path.parent)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(os.fspath(path))
    except BlockingIOError:
        return "up"  # its queue of connections is full: busy is not dead
    except PermissionError as error:
        raise AccessRefusedError(
            f"The socket {path} may not be used by uid {os.getuid()}: {error.strerror}.",
            remedy="Unset MLC_JITD_SOCKET to use a daemon of your own, or ask the daemon's owner for access.",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            return "down"
        raise AccessRefusedError(f"The socket {path} can't be used: {error.strerror}.") from error
    else:
        if host:
            _require_hosts(probe, path)
        else:
            _require_own(probe, path)
        return "up"
    finally:
        probe.close()


def _require_private(folder: Path) -> None:
    """The socket's folder as the file system tells it: whoever may write there decides who answers."""
    if os.environ.get("MLC_JITD_SOCKET"):
        return  # named on purpose
    if private(os.fspath(folder)) is False:
        raise AccessRefusedError(
            f"{folder} is not a private folder of uid {os.getuid()}; a socket in it is not trusted.",
            remedy=f"Remove it, or `chmod 700 {folder}`, or set MLC_JITD_RUNTIME_DIR to a private folder.",
        )


def private(folder: str) -> bool | None:
    """Whether nobody but this user (and root) writes in a folder; ``None`` where there is none."""
    try:
        about = os.lstat(folder)
    except OSError:
        return None  # then there is no socket in it either
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _require_own(probe: socket.socket, path: Path) -> None:
    """The listener's uid as the kernel tells it; a socket that was named on purpose may be another's."""
    if os.environ.get("MLC_JITD_SOCKET"):
        return
    uid = _listener(probe)
    if uid not in (-1, os.getuid()):
        raise AccessRefusedError(
            f"uid {uid} listens at {path}, where a daemon of uid {os.getuid()} was expected.",
            remedy="Set MLC_JITD_SOCKET if that daemon is to be used.",
        )


def _require_hosts(probe: socket.socket, path: Path) -> None:
    """The host's daemon hands out code that this process will run: only root, or whom root gave the folder, may listen.

    The folder lies in one that root alone writes (``/run``), so who owns it was chosen by root.
    """
    about, uid = os.stat(path.parent), _listener(probe)  # noqa: PTH116 - text stays text
    if about.st_mode & 0o022 or uid not in (-1, 0, about.st_uid):
        raise AccessRefusedError(
            f"{path} is not trusted: its folder has mode {stat.S_IMODE(about.st_mode):04o} and belongs to uid "
            f"{about.st_uid}, and uid {uid} listens there.",
            remedy="Tell this host's administrator; MLC_JITD_SYSTEM=off uses a daemon of your own.",
        )


def _listener(probe: socket.socket) -> int:
    """The uid that listens, from the kernel; -1 where it does not tell."""
    import socket  # noqa: PLC0415 - as in reach()
    import struct  # noqa: PLC0415 - likewise

    if not sys.platform.startswith("linux"):
        return -1
    with contextlib.suppress(OSError):
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    return -1
