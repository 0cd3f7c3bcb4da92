"""Who is at the other end of a connection, and who has a say about that and about what is asked there.

What does not belong here: the socket (`server`), the rules (`access`), the answers (`answers`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jit import messages as m

PEERS = 4096
"""Connections of which the reading of the kernel's word is remembered."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a message, from the socket's kernel credentials; ``pid`` is 0 where the kernel does not tell.

    ``roles`` says what it may do, in the terms of whoever guards the server; 0 for nothing.
    """

    identity: bytes
    uid: int
    gid: int
    pid: int
    roles: int = 0


def peer_of(identity: bytes, address: str) -> Peer:
    """The peer by its frame's address: ``localhost:UID:GID:PID``, from SO_PEERCRED (seen with libzmq 4.3.5)."""
    try:
        _, uid, gid, pid = address.rsplit(":", 3)
        return Peer(identity, int(uid), int(gid), int(pid or 0))
    except ValueError:
        return Peer(identity, -1, -1, 0)


class Guard(Protocol):
    """Who looks at connections and messages where others than the own user may connect; in the server's thread."""

    forget: Callable[[bytes | None], None]

    def look(self) -> float:
        """Look around, in each turn of the thread; seconds until the next look is due."""

    def came(self, descriptor: int) -> None:
        """A connection was accepted."""

    def went(self, descriptor: int) -> None:
        """A connection is no more."""

    def admit(self, peer: Peer, descriptor: int) -> Peer:
        """Who is behind a connection, with its roles; asked once for each."""

    def closed(self, connection: bytes) -> bool:
        """Whether the guard has ended this connection."""

    def gone(self, connection: bytes) -> None:
        """Nobody is behind this connection any more."""

    def screen(self, peer: Peer, message: m.Message) -> m.Message | None:
        """The message as it is to be taken, a ``Failure`` for an answer, or nothing to pass it over."""

    def answered(self, connection: bytes, id_: int) -> None:
        """The last word on a question leaves."""

    def offended(self, peer: Peer) -> None:
        """Something came that is no message, or that this sender may not send."""


class Peers:
    """Who sent a frame. The kernel's word is asked for with each, and only its reading is remembered.

    Args:
        allow: Uids that may talk to this daemon, where nobody guards it; they may do everything.
        guard: Else says who may do what.
    """

    def __init__(self, allow: frozenset[int], guard: Guard | None) -> None:
        self._allow = allow
        self._guard = guard
        self._known: dict[tuple[bytes, str], Peer] = {}
        self._forgotten = 0

    def of(self, identity: bytes, frame: zmq.Frame) -> Peer:
        """Who is behind a connection that a frame came by; without roles where the kernel says nothing."""
        try:
            address = str(frame.get("Peer-Address"))
        except zmq.ZMQError:
            return Peer(identity, -1, -1, 0)
        peer = self._known.get((identity, address))
        if peer is None:
            if len(self._known) >= PEERS:
                self._known.clear()
            forgotten = self._forgotten
            peer = self._admit(peer_of(identity, address), frame)
            if forgotten == self._forgotten:  # else the rules may have been other ones
                self._known[identity, address] = peer
        return peer

    def forget(self, connection: bytes | None) -> None:
        """Ask again who is behind a connection, or behind all; from any thread."""
        self._forgotten += 1
        for known in list(self._known):
            if connection is None or known[0] == connection:
                self._known.pop(known, None)

    def _admit(self, peer: Peer, frame: zmq.Frame) -> Peer:
        if self._guard is None:
            return replace(peer, roles=1) if peer.uid in self._allow else peer
        return self._guard.admit(peer, int(frame.get(zmq.SRCFD)))


class Memory(Protocol):
    """Knows answers by the very bytes of their questions. Called in the server's thread."""

    def turn(self) -> None:
        """Whatever ``reply`` gets until the next turn has been asked already."""

    def rest(self) -> None:
        """Nobody asks just now: what will have to be looked at soon may be looked at now."""

    def reply(self, peer: Peer, frame: bytes) -> bytes | None:
        """The bytes of the reply to a frame, if they are known."""

    def learn(self, peer: Peer, frame: bytes, request: m.JitRequest) -> None:
        """The handler answered this frame at once, with a library."""
