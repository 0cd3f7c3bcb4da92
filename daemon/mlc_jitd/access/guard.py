"""The guard of a daemon that many users share: looks at each connection and each message, in the server's thread.

Decisions are the rooms' beside it. Here is what they need of the system: the groups of a connection's process, what it
leaves unread, and how a connection is ended (its descriptor is shut down, and ZeroMQ finds it closed).

A connection's number is looked up again each time, with the kernel's word for who is behind it: ZeroMQ may have closed
it, and the number may be another's by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import socket
import struct
import sys
import termios
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from mlc_jit import messages as m
from mlc_jit.errors import AccessRefusedError, BusyError, JitError, RequestError
from mlc_jitd.access import roles
from mlc_jitd.access.meter import COST, Kind, Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.access.requests import Desk
    from mlc_jitd.peers import Peer

logger = logging.getLogger(__name__)

PEER_GROUPS: Final = 59
"""``SO_PEERGROUPS``: the supplementary groups that a process had when it connected (Linux 4.13)."""

GROUPS_BYTES = 1024
OWN_ID_BYTES = 5
"""A connection that names itself could take another's place: only ZeroMQ's own names count, which have a zero first."""

UNREAD_BYTES = 64 << 10
"""Who leaves so much unread is told nothing long."""

CONNECTIONS = 16_384

FUSE_BYTES = 256 << 20
"""By how much the daemon may grow until every connection is ended. ZeroMQ bounds each part of a message and the number
of messages that wait, but not the parts of one message that never ends; a connection's end frees them. Whoever is
disconnected without having done anything connects again by itself."""

LOOK_SECONDS = 0.2
CALM_SECONDS = 60.0
_PAGE = os.sysconf("SC_PAGE_SIZE")

_KINDS: dict[type[m.Message], Kind] = {
    m.JitRequest: "library",
    m.Explain: "report",
    m.Keep: "report",
    m.ListRequest: "report",
    m.StatusRequest: "report",
    m.WatchRequest: "watch",
}


_SHORT = (m.TopRequest, m.RecordsRequest)
"""Reports that are answered at once, from memory: as dear as others, but not counted among what is on its way."""


class Guard:
    """See the module's docstring.

    Args:
        rules: Who may do what; may be replaced, ``forget`` then makes it count.
        desk: Takes requests in.
        meter: Counts.
    """

    def __init__(self, rules: roles.Rules, desk: Desk, meter: Meter) -> None:
        self.rules = rules
        self.desk = desk
        self.meter = meter
        self.forget: Callable[[bytes | None], None] = lambda _connection: None
        """Makes the server ask again who is behind a connection, or behind all."""
        self.counters: Counter[str] = Counter(fuse=0, hung_up=0, refused_role=0, refused_busy=0)
        self._descriptors: OrderedDict[bytes, int] = OrderedDict()
        self._closed: OrderedDict[bytes, None] = OrderedDict()
        self._open: dict[int, int] = {}
        self._each: Counter[int] = Counter()
        self._next_look = 0.0
        self._fuse = resident() + FUSE_BYTES

    def look(self) -> float:
        """Whether memory is what it may be; seconds until that is to be asked again."""
        now = time.monotonic()
        if not self._open:
            return CALM_SECONDS
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            size = resident()
            if size > self._fuse:
                logger.warning("%d MiB in use: every connection is ended", size >> 20)
                self.counters["fuse"] += 1
                for descriptor in list(self._open):
                    for connection, _, _ in _connection(descriptor):
                        self._shut(connection)
                self._fuse = size + FUSE_BYTES
            self._fuse = min(self._fuse, size + FUSE_BYTES * 2)
        return self._next_look - now

    # --- connections ------------------------------------------------------------------------------------------------

    def came(self, descriptor: int) -> None:
        """A connection was accepted."""
        self.went(descriptor)
        for connection, uid, _ in _connection(descriptor):
            self._open[descriptor] = uid
            self._each[uid] += 1
            now = time.monotonic()
            many = self._each[uid] > self.meter.limits.connections or self.meter.is_shut_out(uid, now)
            if many or not self.meter.spend(uid, COST["connection"], now):
                self._shut(connection)

    def went(self, descriptor: int) -> None:
        """A connection is no more."""
        uid = self._open.pop(descriptor, None)
        if uid is not None:
            self._each[uid] -= 1
            if self._each[uid] <= 0:
                del self._each[uid]

    def admit(self, peer: Peer, descriptor: int) -> Peer:
        """Who is behind a connection, with what they may do; asked once for each.

        Args:
            peer: As the frame tells it.
            descriptor: Of the connection, -1 if that is not known.
        """
        if peer.identity in self._closed or len(peer.identity) != OWN_ID_BYTES or peer.identity[0]:
            return dataclasses.replace(peer, roles=roles.NONE)
        for connection, uid, pid in _connection(descriptor):
            if (uid, pid) == (peer.uid, peer.pid):
                self._descriptors[peer.identity] = descriptor
                self._descriptors.move_to_end(peer.identity)
                if len(self._descriptors) > CONNECTIONS:
                    self._descriptors.popitem(last=False)
                return dataclasses.replace(peer, roles=self.rules.roles(uid, {peer.gid, *_groups(connection)}))
        return dataclasses.replace(peer, roles=roles.NONE)

    def closed(self, connection: bytes) -> bool:
        """Whether this connection was ended here; what it said before is not answered."""
        return connection in self._closed

    def gone(self, connection: bytes) -> None:
        """Nobody is behind this connection any more."""
        self.meter.gone(connection)

    # --- messages ---------------------------------------------------------------------------------------------------

    def screen(self, peer: Peer, message: m.Message) -> m.Message | None:
        """The message as the daemon takes it; a ``Failure`` that is to be its answer; or nothing, to pass it over."""
        kind = _KINDS.get(type(message))
        report = kind in ("report", "watch") or isinstance(message, _SHORT)
        cost = COST["report" if report else "message"]
        if not self.meter.spend(peer.uid, cost, time.monotonic()):
            self._end(peer)
            return None
        role = roles.needed(message)
        if not peer.roles & role:
            self.counters["refused_role"] += 1
            self.offended(peer)
            return m.Failure.of(_not_yours(peer, message, role), id=message.id)
        if isinstance(message, m.Leave):
            self.meter.answered(peer.identity, message.id)
        if report and kind != "watch" and _unread(self._descriptors.get(peer.identity, -1)) > UNREAD_BYTES:
            self.offended(peer)
            return None
        if kind is None:
            return message
        verdict = self.meter.asked(peer.identity, peer.uid, message.id, kind)
        if verdict == "busy":
            self.counters["refused_busy"] += 1
            return m.Failure.of(_too_many(peer, getattr(self.meter.limits, kind)), id=message.id)
        if verdict == "again":
            return None  # its answer is on its way
        try:
            return self._taken(peer, message)
        except JitError as error:
            self.meter.answered(peer.identity, message.id)
            return m.Failure.of(error, id=message.id)

    def answered(self, connection: bytes, id_: int) -> None:
        """The last word on a question has left."""
        self.meter.answered(connection, id_)

    def offended(self, peer: Peer) -> None:
        """Something came that is no message, or that this sender may not send."""
        if not self.meter.spend(peer.uid, COST["fault"], time.monotonic()):
            self._end(peer)

    def _taken(self, peer: Peer, message: m.Message) -> m.Message:
        if isinstance(message, m.JitRequest):
            return self.desk.taken(peer.uid, peer.pid, message)
        if isinstance(message, m.Explain):
            return dataclasses.replace(message, request=self.desk.taken(peer.uid, peer.pid, message.request))
        if isinstance(message, m.Keep) and message.ask is not None:
            return dataclasses.replace(message, ask=self.desk.taken(peer.uid, peer.pid, message.ask))
        return message

    def _end(self, peer: Peer) -> None:
        self.meter.gone(peer.identity)
        self.meter.shut_out(peer.uid, time.monotonic())
        self._closed[peer.identity] = None
        if len(self._closed) > CONNECTIONS:
            self._closed.popitem(last=False)
        for connection, uid, pid in _connection(self._descriptors.pop(peer.identity, -1)):
            if (uid, pid) == (peer.uid, peer.pid):
                self._shut(connection)
        self.forget(peer.identity)

    def _shut(self, connection: socket.socket) -> None:
        self.counters["hung_up"] += 1
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
            while connection.recv(UNREAD_BYTES * 4, socket.MSG_DONTWAIT):
                pass  # what it has sent already would still be read, thousands of messages


def resident() -> int:
    """Bytes of this process that are in memory, 0 where that can't be told."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - several times a second
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


class PeerGroupsError(RequestError):
    """This system does not tell the groups of who is connected."""


def require_peer_groups() -> None:
    """Refuse where the kernel does not tell who is at the other end of a connection.

    Raises:
        PeerGroupsError: It does not.
    """
    one, other = socket.socketpair()
    with one, other:
        try:
            _groups(one)
        except OSError as error:
            raise PeerGroupsError(
                f"This system ({sys.platform}) does not tell the groups of connected processes: {error.strerror}.",
                remedy="A daemon of many users needs Linux 4.13 or later.",
                reason="system",
            ) from error


@contextlib.contextmanager
def _held(descriptor: int) -> Iterator[socket.socket | None]:
    try:
        held = os.dup(descriptor)
    except OSError:
        yield None
        return
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=held)
    except OSError:
        os.close(held)
        raise
    with connection:
        yield connection


def _connection(descriptor: int) -> Iterator[tuple[socket.socket, int, int]]:
    """The connection that a descriptor of ZeroMQ's leads to, held fast, with uid and pid; none if closed."""
    with contextlib.suppress(OSError), _held(descriptor) as connection:
        if connection is not None:
            said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", said)
            yield connection, uid, pid


def _groups(connection: socket.socket) -> tuple[int, ...]:
    said = connection.getsockopt(socket.SOL_SOCKET, PEER_GROUPS, GROUPS_BYTES)
    return struct.unpack(f"{len(said) // 4}I", said)


def _unread(descriptor: int) -> int:
    for connection, _, _ in _connection(descriptor):
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    return 0


def _not_yours(peer: Peer, message: m.Message, role: roles.Role) -> JitError:
    what = "pre-warm" if isinstance(message, m.JitRequest) else f"send `{message.verb}`"
    kind = RequestError if isinstance(message, m.JitRequest) else AccessRefusedError
    return kind(
        f"uid {peer.uid} may not {what}: that is for who is listed under `{roles.setting(role)}`.",
        remedy="Ask the administrator of this host's daemon.",
        reason="role",
    )


def _too_many(peer: Peer, limit: int) -> BusyError:
    return BusyError(
        f"uid {peer.uid} waits for {limit} answers of this kind already.", remedy="Ask again later.", reason="user-full"
    )
