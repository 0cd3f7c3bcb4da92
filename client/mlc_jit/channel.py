"""One connection to a daemon: send a request, hear until its answer, notice a daemon that is gone or silent.

A connection belongs to one thread and one process; ``current`` gives each its own, so no answer can reach another
caller. Starting a daemon is ``autostart``'s, what to do without one ``fallback``'s.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

import zmq

from mlc_jit import messages as m
from mlc_jit.errors import AccessRefusedError, DaemonUnavailableError, ProtocolError, RequestError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlc_jit.interrupt import Interrupt

FIRST_PROBE_SECONDS = 0.25
"""Silence after which a first look is taken at whether anybody listens at all; hits take a thousandth of it."""

PROBE_SECONDS = m.HEARTBEAT_SECONDS * 1.25

SETTLE_SECONDS = 0.5
"""How long a client that is about to end waits until its last word has arrived."""

Reach = Literal["up", "down"]

_left_behind: list[object] = []
"""Sockets and contexts of the process that this one was forked from: closing them here would hang or hurt it."""


class Channel:
    """A DEALER connection to the socket at ``path``. Not thread-safe.

    Args:
        path: The daemon's socket; somebody listens there, see ``reach``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inode = _inode(path)
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._socket = _context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.connect(f"ipc://{path}")
        self._hello = m.encode(m.Hello(protocol=m.PROTOCOL, features=m.FEATURES))

    def next_id(self) -> int:
        """An id that no other request on this connection has."""
        return next(self._ids)

    def send(self, message: m.Message) -> None:
        """Hand one message to the connection."""
        if self._hello:
            self._socket.send(self._hello)
            self._hello = b""
        payload = m.encode(message)
        if len(payload) > m.MAX_MESSAGE_BYTES:
            raise RequestError(
                f"The request has {len(payload)} bytes; a daemon takes {m.MAX_MESSAGE_BYTES}.",
                remedy="Look for very long environment variables or overrides.",
            )
        self._socket.send(payload)

    def settle(self) -> None:
        """Wait until the daemon has taken in what was sent so far, but not for long: what follows may be our end."""
        hello = m.Hello(id=self.next_id(), protocol=m.PROTOCOL, features=m.FEATURES)
        self._socket.send(m.encode(hello))
        give_up_at = time.monotonic() + SETTLE_SECONDS
        while (left := give_up_at - time.monotonic()) > 0:
            if self._socket.poll(int(left * 1000)):
                with contextlib.suppress(ProtocolError):
                    if m.decode(self._socket.recv(), m.REPLIES, strict=False).id == hello.id:
                        return

    def replies(
        self,
        id_: int,
        *,
        silence: float = m.SILENCE_SECONDS,
        strict: bool = False,
        remind: m.Message | None = None,
        interrupt: Interrupt | None = None,
    ) -> Iterator[m.Message]:
        """The messages for one request as they come, its last one included; the caller stops when it has that.

        Args:
            id_: The request's id; messages for others are skipped.
            silence: Seconds without a word after which the daemon is given up.
            strict: Check every field.
            remind: The request itself, sent again when a heartbeat is missing: the daemon that had it may have been
                replaced so quickly that nobody saw it go. One that still has it ignores the second copy.
            interrupt: Ends the wait from another thread.

        Raises:
            KeyboardInterrupt: ``interrupt`` was set.
            DaemonUnavailableError: ``reason`` is ``gone`` (nobody listens any more) or ``silent``.
            AccessRefusedError: The daemon does not serve this user.
        """
        heard = time.monotonic()
        wait = FIRST_PROBE_SECONDS
        while True:
            if not self._heard(wait, interrupt):
                quiet = time.monotonic() - heard
                if reach(self.path) == "down":
                    raise DaemonUnavailableError("The mlc-jitd daemon ended.", reason="gone")
                if quiet >= silence:
                    raise DaemonUnavailableError(
                        f"The mlc-jitd daemon at {self.path} has said nothing for {quiet:.0f} s.",
                        remedy="It may be stopped or overloaded; `mlc-jit status` asks it.",
                        reason="silent",
                    )
                if remind is not None and quiet >= PROBE_SECONDS:
                    self.send(remind)
                wait = min(PROBE_SECONDS, max(silence - quiet, 0.05))
                continue
            heard = time.monotonic()
            wait = PROBE_SECONDS
            try:
                message = m.decode(self._socket.recv(), m.REPLIES, strict=strict)
            except m.UnknownVerbError:
                continue  # a newer daemon says more than this version understands
            if message.id == id_:
                yield message
            elif type(message) is m.Failure and message.id == 0:
                raise message.error()
            elif type(message) is m.Welcome and message.protocol != m.PROTOCOL:
                raise ProtocolError(
                    f"The daemon speaks protocol {message.protocol}, this client {m.PROTOCOL}.",
                    remedy="Restart the daemon after an upgrade: `mlc-jit stop`.",
                )

    def _heard(self, seconds: float, interrupt: Interrupt | None) -> bool:
        if interrupt is None:
            return bool(self._socket.poll(int(seconds * 1000)))
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(interrupt, zmq.POLLIN)
        ready = dict(poller.poll(int(seconds * 1000)))
        if interrupt.fileno() in ready:
            raise KeyboardInterrupt
        return self._socket in ready

    def fresh(self) -> bool:
        """Whether the path still leads to the daemon that this connection was made to."""
        return _inode(self.path) == self.inode is not None

    def close(self) -> None:
        """Drop the connection and what is unsent."""
        self._socket.close(0)

    def __del__(self, getpid: Callable[[], int] = os.getpid, left_behind: list[object] = _left_behind) -> None:
        """A thread that ends drops its connection like this; so does a child that was forked from among threads."""
        if not hasattr(self, "_socket"):
            return
        if self._pid == getpid():
            self.close()
        else:
            left_behind.append(self._socket)


def query(
    path: Path, message: Callable[[int], m.Message], *, silence: float = m.SILENCE_SECONDS
) -> Iterator[m.Message]:
    """Ask a running daemon something, over a connection of its own; never starts one.

    Args:
        path: The daemon's socket.
        message: Makes the request for an id.
        silence: As in ``Channel.replies``.

    Raises:
        DaemonUnavailableError: None is running (``reason`` ``down``), or it is gone or silent.
        JitError: What the daemon answered.
    """
    if reach(path) == "down":
        raise DaemonUnavailableError(
            f"No mlc-jitd daemon is running for this cache home (nobody listens at {path}).",
            remedy="`mlc-jit compile` or a call of jit() starts one; so does `mlc-jitd run`.",
            reason="down",
        )
    channel = Channel(path)
    try:
        id_ = channel.next_id()
        channel.send(message(id_))
        for reply in channel.replies(id_, silence=silence, strict=True):
            if isinstance(reply, m.Failure):
                raise reply.error()
            yield reply
    finally:
        channel.close()


def reach(path: Path) -> Reach:
    """Whether a daemon of this user listens at the path.

    Raises:
        AccessRefusedError: Somebody listens whom this user may not reach or should not trust.
    """
    import socket  # noqa: PLC0415 - once for a connection, not for a hit

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
        _require_own(probe, path)
        return "up"
    finally:
        probe.close()


def _require_private(folder: Path) -> None:
    """The socket's folder as the file system tells it: whoever may write there decides who answers."""
    if os.environ.get("MLC_JITD_SOCKET"):
        return  # named on purpose
    try:
        about = os.lstat(folder)
    except OSError:
        return  # then there is no socket in it either
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise AccessRefusedError(
            f"{folder} is not a private folder of uid {os.getuid()}; a socket in it is not trusted.",
            remedy=f"Remove it, or `chmod 700 {folder}`, or set MLC_JITD_RUNTIME_DIR to a private folder.",
        )


def _require_own(probe: socket.socket, path: Path) -> None:
    """The listener's uid as the kernel tells it; a socket that was named on purpose may be another's."""
    if os.environ.get("MLC_JITD_SOCKET") or not sys.platform.startswith("linux"):
        return
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    with contextlib.suppress(OSError):
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", credentials)[1]
        if uid != os.getuid():
            raise AccessRefusedError(
                f"uid {uid} listens at {path}, where a daemon of uid {os.getuid()} was expected.",
                remedy="Set MLC_JITD_SOCKET if that daemon is to be used.",
            )


# --- one connection per thread and process --------------------------------------------------------------------------

_local = threading.local()
_shared: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None
_making = threading.Lock()


def current(path: Path) -> Channel | None:
    """This thread's connection to the path, if it has one that still leads there."""
    channel: Channel | None = getattr(_local, "channel", None)
    if channel is None:
        return None
    if _local.pid != os.getpid():
        _left_behind.append(channel)
        _local.channel = None
        return None
    if channel.path != path or not channel.fresh():
        forget()
        return None
    return channel


def connect(path: Path) -> Channel:
    """A new connection for this thread."""
    forget()
    _local.channel = channel = Channel(path)
    _local.pid = os.getpid()
    return channel


def forget() -> None:
    """Drop this thread's connection."""
    channel: Channel | None = getattr(_local, "channel", None)
    if channel is not None and _local.pid == os.getpid():
        channel.close()
    _local.channel = None


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    global _shared  # noqa: PLW0603 - one context per process is ZeroMQ's own rule
    with _making:
        if _shared is None or _shared[0] != os.getpid():
            if _shared is not None:
                _left_behind.append(_shared)
            _shared = (os.getpid(), zmq.Context(io_threads=1))
        return _shared[1]


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent may have held it
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        about = os.stat(path)  # noqa: PTH116 - on the hit path
    except OSError:
        return None
    return about.st_dev, about.st_ino
