"""Replies, on their way to connections or to the daemon itself, which asks too (pre-warming)."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from mlc_jit import messages as m
from mlc_jitd.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable


class Replies(Protocol):
    """Where answers go: the server."""

    def send(self, identity: bytes, message: m.Message) -> None:
        """Queue a reply for a connection."""

    @property
    def counters(self) -> Counter[str]:
        """What the socket saw."""

    def alive(self) -> bool:
        """Whether anybody still takes replies."""


class Outbox:
    """Sends replies, from any thread. Opened before anybody can ask."""

    def __init__(self) -> None:
        self._replies: Replies | None = None
        self._own: dict[bytes, Callable[[m.Message], None]] = {}
        self._own_ids = itertools.count()

    def open(self, replies: Replies) -> None:
        """Give the replies somewhere to go."""
        self._replies = replies

    def send(self, identity: bytes, message: m.Message) -> None:
        """Send a message to who asked."""
        own = self._own.get(identity)
        if own is not None:
            own(message)
            return
        assert self._replies is not None, "opened before anybody can ask"
        self._replies.send(identity, message)

    def own(self, done: Callable[[m.Result | m.Failure], None]) -> Peer:
        """A peer that is the daemon itself, for one request.

        Args:
            done: Gets the answer, in the thread that sends it.
        """
        peer = Peer(b"\0\0inner%d" % next(self._own_ids), os.getuid(), os.getgid(), os.getpid())

        def replied(message: m.Message) -> None:
            if isinstance(message, m.Result | m.Failure):
                del self._own[peer.identity]
                done(message)

        self._own[peer.identity] = replied
        return peer

    def is_own(self, identity: bytes) -> bool:
        """Whether a peer is the daemon itself."""
        return identity in self._own

    def dead(self) -> bool:
        """Whether nobody takes replies any more."""
        return self._replies is not None and not self._replies.alive()

    def counters(self) -> Counter[str]:
        """What the socket saw."""
        return self._replies.counters if self._replies is not None else Counter()
