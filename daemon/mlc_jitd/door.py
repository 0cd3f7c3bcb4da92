"""The daemon's place on the host: its lock, and the socket file that clients find.

Lock first, then bind: a second bind on a live path would silently steal it. The socket is bound under another name,
made private, and renamed into place; ZeroMQ adopts its descriptor and never unlinks it. So the path always leads to
a listening socket, and only its owner removes it.

A service manager's socket is adopted instead: the path is the manager's, who listens there before and after us, and
stays when we leave.

Leaving is in two steps. ``retire`` removes the path and releases the lock, so that a successor can start at once;
connections that are open live on until the server closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import DaemonUnavailableError, StoreUnwritableError
from mlc_jit.locations import Locations, private_folder

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 512
"""Connections that may wait to be accepted when a fleet of processes boots at once."""

PEEK_SECONDS = 0.25
"""Who only wants to know whether a daemon serves (`locations.served`) holds the lock for a moment."""


class Door:
    """Owns the lock and the socket file of one daemon.

    Args:
        places: Where they are.
        everybody: Whether everybody may connect; who is let in is decided behind the door then.
    """

    def __init__(self, places: Locations, *, everybody: bool = False) -> None:
        self.places = places
        self._mode = 0o666 if everybody else 0o600
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        self._adopted = False

    def lock(self, *, patience: float = PEEK_SECONDS, waiting: Callable[[], None] = lambda: None) -> None:
        """Become the daemon of this home.

        Args:
            patience: How long, in seconds, another holder is waited for.
            waiting: Called about every second of that.

        Raises:
            DaemonUnavailableError: Another process is; ``reason`` is ``running``.
            AccessRefusedError: The runtime folder is not private.
            StoreUnwritableError: The runtime folder or the lock can't be made.
        """
        private_folder(self.places.runtime)
        try:
            fd = os.open(self.places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unlockable(error) from error
        try:
            _flock(fd, patience, waiting)
        except BlockingIOError as error:
            pid = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            raise DaemonUnavailableError(
                f"A daemon (pid {pid or 'unknown'}) already serves {self.places.home}.",
                remedy="Nothing needs to be done to use it; `mlc-jit stop` ends it.",
                reason="running",
            ) from error
        except OSError as error:
            os.close(fd)
            raise self._unlockable(error) from error
        with contextlib.suppress(OSError):  # a full disk: the pid is for people, hits can be served
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    def _unlockable(self, error: OSError) -> StoreUnwritableError:
        return StoreUnwritableError(
            f"The lock {self.places.lock} can't be made or held: {error.strerror or error}.",
            remedy="Set MLC_JITD_RUNTIME_DIR to a folder on a local disk that this user can write.",
        )

    def bind(self) -> socket.socket:
        """A listening socket, reachable at ``places.socket`` from now on."""
        assert self._lock is not None, "lock before bind"
        path = self.places.socket
        # Our lock makes this name ours. It is no longer than the real one, which may be as long as the system allows.
        fresh = path.with_name(("~" if path.name[0] != "~" else "+") + path.name[1:])
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        try:
            fresh.unlink(missing_ok=True)
            listener.bind(os.fspath(fresh))
            fresh.chmod(self._mode)
            listener.listen(BACKLOG)
            fresh.rename(path)
        except OSError as error:
            listener.close()
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise DaemonUnavailableError(
                f"The socket {path} can't be made: {error.strerror or error}.",
                remedy="Set MLC_JITD_RUNTIME_DIR to a folder on a local disk that this user can write.",
                reason="socket",
            ) from error
        self._inode = _inode(path)
        return listener

    def adopt(self, listener: socket.socket) -> socket.socket:
        """The service manager's listening socket as ours, or one of our own where nobody can reach that one.

        Raises:
            DaemonUnavailableError: It listens where no client of this home looks; or as of ``bind``.
        """
        assert self._lock is not None, "lock before anything is served"
        path, address = self.places.socket, Path(os.fsdecode(listener.getsockname()))
        if (address.name, os.path.realpath(address.parent)) != (path.name, os.path.realpath(path.parent)):
            raise DaemonUnavailableError(
                f"The service manager listens at {address}, and clients of {self.places.home} look at {path}.",
                remedy="Write its files anew: `mlc-jit service install`.",
                reason="socket",
            )
        if not _answers(path):
            listener.close()  # its file was removed or replaced since
            return self.bind()
        self._adopted = True
        self._inode = _inode(path)
        return listener

    def still_ours(self) -> bool:
        """Whether the path still leads to our socket; also keeps the files young for cleaners of /tmp."""
        if self._inode is None or _inode(self.places.socket) != self._inode:
            return False
        for path in (self.places.lock, self.places.socket):
            try:
                os.utime(path)
            except OSError:
                continue
        return True

    def retire(self) -> None:
        """Stop being the daemon of this home; open connections are not touched. May be called twice."""
        if not self._adopted and self._inode is not None and _inode(self.places.socket) == self._inode:
            with contextlib.suppress(OSError):  # a folder that became read-only: the lock is released all the same
                self.places.socket.unlink(missing_ok=True)
        self._inode = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _flock(fd: int, patience: float, waiting: Callable[[], None]) -> None:
    """Take the lock; BlockingIOError if somebody else keeps it for longer than ``patience`` seconds."""
    begun = said = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now - begun >= patience:
                raise
            if now - said >= 1.0:
                said = now
                waiting()
            time.sleep(0.02)
        else:
            return


def _answers(path: Path) -> bool:
    """Whether anybody listens at the path; asked under the lock, so it can only be the service manager."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(os.fspath(path))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
