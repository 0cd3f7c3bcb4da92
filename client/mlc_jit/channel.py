"""One connection to a daemon: send a request, hear until its answer, notice a daemon that is gone or silent.

A connection belongs to one thread and one process; ``current`` gives each its own, so no answer can reach another
caller. Starting a daemon is ``autostart``'s, what to do without one ``fallback``'s.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import zmq

from mlc_jit import messages as m
from mlc_jit._version import __version__
from mlc_jit.errors import DaemonUnavailableError, ProtocolError, RequestError
from mlc_jit.messages.frames import FEATURES, FIRST_PROBE_SECONDS, MAX_MESSAGE_BYTES, PROTOCOL, SILENCE_SECONDS, pack
from mlc_jit.reach import Reach, reach, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mlc_jit.interrupt import Interrupt
    from mlc_jit.vigil import Step

SETTLE_SECONDS = 0.5
"""How long a client that is about to end waits until its last word has arrived."""

__all__ = [
    "Channel", "Reach", "connect", "current", "forget", "heard", "next_id", "query", "reach",
    "the_threads",
]  # fmt: skip

_left_behind: list[object] = []
"""Sockets and contexts of the process that this one was forked from: closing them here would hang or hurt it."""


class Channel:
    """A DEALER connection to the socket at ``path``. Not thread-safe.

    Args:
        path: The daemon's socket; somebody listens there, see ``reach``.

    Attributes:
        place: The socket as text.
        kept: What ``hit`` keeps of the questions that were asked over this connection.
    """

    def __init__(self, path: Path | str) -> None:
        self.place = os.fspath(path)
        self.inode = _inode(self.place)
        self.kept: dict[Any, Any] = {}
        self.pid = os.getpid()
        self._socket = _context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        # What many questions at once are answered waits here and not in the daemon, which drops beyond its limit.
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._patience = QUICK
        self._socket.setsockopt(zmq.RCVTIMEO, self._patience)
        self._socket.connect(f"ipc://{path}")
        self._hello = hello(0)
        # Found once: each look at a name of pyzmq's socket asks for an option of that name first.
        self._send, self._recv = super(zmq.Socket, self._socket).send, self._socket.recv  # type: ignore[misc]

    @property
    def path(self) -> Path:
        """The daemon's socket."""
        from pathlib import Path  # noqa: PLC0415 - not for a hit

        return Path(self.place)

    def next_id(self) -> int:
        """An id that no other request on this connection has; see ``next_id``."""
        return next_id()

    def post(self, frame: bytes) -> None:
        """Hand one frame to the connection; it never blocks."""
        if self._hello:
            self._socket.send(self._hello)
            self._hello = b""
        self._socket.send(frame)

    def send(self, message: m.Message) -> None:
        """Hand one message to the connection."""
        payload = m.encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise RequestError(
                f"The request has {len(payload)} bytes; a daemon takes {MAX_MESSAGE_BYTES}.",
                remedy="Look for very long environment variables or overrides.",
            )
        self.post(payload)

    def remind(self, step: Step, frames: Iterable[bytes]) -> None:
        """Do what a ``Vigil`` says of a daemon that was silent.

        Args:
            step: What it says.
            frames: What was asked over this connection and is not answered.
        """
        if step == "wait":
            return
        if step == "greet":
            self.post(hello(next_id()))
        for frame in frames:
            self.post(frame)

    def exchange(self, frame: bytes) -> bytes | None:
        """Post a frame and take the next one, if it comes before a first look at the daemon is due.

        After anything that is raised here, Ctrl-C too, an answer may still come.
        """
        if self._hello or self._patience != QUICK:
            self.post(frame)
            return self.take(FIRST_PROBE_SECONDS)
        self._send(frame)
        try:
            return self._recv()
        except zmq.Again:
            return None

    def take(self, seconds: float, interrupt: Interrupt | None = None) -> bytes | None:
        """The next frame, or ``None`` if none comes in time.

        Raises:
            KeyboardInterrupt: ``interrupt`` was set.
        """
        patience = int(max(0.0, seconds) * 1000) + 1
        if interrupt is not None:
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(interrupt, zmq.POLLIN)
            ready = dict(poller.poll(patience))
            if interrupt.fileno() in ready:
                raise KeyboardInterrupt
            return self.ready()
        if patience != self._patience:
            self._socket.setsockopt(zmq.RCVTIMEO, patience)
            self._patience = patience
        try:
            return self._socket.recv()
        except zmq.Again:
            return None

    def ready(self) -> bytes | None:
        """The next frame if there is one already."""
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def fileno(self) -> int:
        """Readable when something has changed; only then, so take all there is, and also after each ``post``."""
        return int(self._socket.getsockopt(zmq.FD))

    def settle(self) -> None:
        """Wait until the daemon has taken in what was sent so far, but not for long: what follows may be our end."""
        id_ = next_id()
        self._socket.send(hello(id_))
        give_up_at = time.monotonic() + SETTLE_SECONDS
        while (left := give_up_at - time.monotonic()) > 0:
            frame = self.take(left)
            if frame is not None and (parts := m.cut(frame)) is not None and parts[1] == id_:
                return

    def replies(
        self, id_: int, *, silence: float = SILENCE_SECONDS, strict: bool = False, remind: m.Message | None = None
    ) -> Iterator[m.Message]:
        """The messages for one request as they come, its last one included; the caller stops when it has that.

        Args:
            id_: The request's id; messages for others are skipped.
            silence: Seconds without a word after which the daemon is given up.
            strict: Check every field.
            remind: The request itself, sent again when a heartbeat is missing.

        Raises:
            DaemonUnavailableError: ``reason`` is ``gone`` (nobody listens any more) or ``silent``.
            AccessRefusedError: The daemon does not serve this user.
        """
        from mlc_jit.vigil import Vigil  # noqa: PLC0415 - not for a hit

        vigil = Vigil(self.path, silence, time.monotonic())
        while True:
            frame = self.take(max(0.0, vigil.due - time.monotonic()))
            if frame is None:
                step = vigil.silent(time.monotonic(), reach(self.path))
                self.remind(step, (m.encode(each) for each in (remind,) if each is not None))
                continue
            vigil.word(time.monotonic())
            message = heard(frame, strict=strict)
            if message is not None and message.id == id_:
                yield message

    def fresh(self) -> bool:
        """Whether the path still leads to the daemon that this connection was made to."""
        return _inode(self.place) == self.inode is not None

    def close(self) -> None:
        """Drop the connection and what is unsent."""
        self._socket.close(0)

    def __del__(self, getpid: Callable[[], int] = os.getpid, left_behind: list[object] = _left_behind) -> None:
        """A thread that ends drops its connection like this; so does a child that was forked from among threads."""
        if not hasattr(self, "_socket"):
            return
        if self.pid == getpid():
            self.close()
        else:
            left_behind.append(self._socket)


QUICK = int(FIRST_PROBE_SECONDS * 1000) + 1
"""Milliseconds that a hit is waited for."""


def hello(id_: int) -> bytes:
    """The first word of a client."""
    fields = {"verb": "hello", "id": id_, "protocol": PROTOCOL, "version": __version__, "features": FEATURES}
    return pack(fields)


def heard(frame: bytes, *, strict: bool = False) -> m.Message | None:
    """A frame as a message; ``None`` for what a newer daemon says and this version does not understand.

    Raises:
        JitError: What the daemon says to the connection as a whole: it does not serve this user, or speaks otherwise.
    """
    try:
        message = m.decode(frame, m.REPLIES, strict=strict)
    except m.UnknownVerbError:
        return None
    if type(message) is m.Failure and message.id == 0:
        raise message.error()
    if type(message) is m.Welcome and message.protocol != m.PROTOCOL:
        raise ProtocolError(
            f"The daemon (version {message.version or 'unknown'}) speaks protocol {message.protocol}, "
            f"this client ({__version__}) protocol {m.PROTOCOL}.",
            remedy="Use one version of mlc-jitd for all; `mlc-jit stop` ends the daemon, and the next request starts "
            "its own.",
        )
    return message


def query(path: Path, message: Callable[[int], m.Message], *, silence: float = SILENCE_SECONDS) -> Iterator[m.Message]:
    """Ask a running daemon something, over a connection of its own; never starts one.

    Args:
        path: The daemon's socket.
        message: Makes the request for an id.
        silence: As in ``Channel.replies``.

    Raises:
        DaemonUnavailableError: None is running (``reason`` ``down``), or it is gone or silent.
        JitError: What the daemon answered.
    """
    if not served(path) or reach(path) == "down":
        raise DaemonUnavailableError(
            f"No mlc-jitd daemon is running for this cache home (its socket: {path}).",
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


# --- one connection per thread and process --------------------------------------------------------------------------

_local = threading.local()
_ids = itertools.count(1)
next_id = _ids.__next__
"""An id that no other request of this process has had: the same one may be sent again over another connection."""
_shared: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None
_making = threading.Lock()


def the_threads() -> Channel | None:
    """This thread's connection, wherever it leads."""
    channel: Channel | None = getattr(_local, "channel", None)
    return channel


def current(path: Path | str) -> Channel | None:
    """This thread's connection to the path, if it has one that still leads there."""
    channel = the_threads()
    if channel is None:
        return None
    if channel.pid != os.getpid() or channel.place != os.fspath(path) or not channel.fresh():
        forget()
        return None
    return channel


def connect(path: Path | str) -> Channel:
    """A new connection for this thread."""
    forget()
    _local.channel = channel = Channel(path)
    return channel


def forget() -> None:
    """Drop this thread's connection."""
    channel = the_threads()
    if channel is not None:
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
    channel = the_threads()
    if channel is not None:
        _left_behind.append(channel)
        _local.channel = None


os.register_at_fork(after_in_child=_after_fork)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)  # noqa: PTH116 - on the hit path
    except OSError:
        return None
    return about.st_dev, about.st_ino
