"""Who is told what happens: connections that sent ``watch``. From any thread."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.peers import Peer

MOST = 64


class Subscribers:
    """See the module's docstring.

    Args:
        send: Sends a message to a peer.
    """

    def __init__(self, send: Callable[[Peer, m.Message], None]) -> None:
        self._send = send
        self._known: dict[tuple[bytes, int], Peer] = {}
        self._lock = threading.Lock()

    def add(self, peer: Peer, message: m.WatchRequest) -> None:
        """Tell this connection from now on; its first event says so."""
        with self._lock:
            full = len(self._known) >= MOST
            if not full:
                self._known[peer.identity, message.id] = peer
        if full:
            error = BusyError(f"{MOST} others are being told already.", remedy="End one of them.", reason="watch-full")
            self._send(peer, m.Failure.of(error, id=message.id))
        else:
            self._send(peer, m.Event(id=message.id, what="watching", at=time.time()))

    def gone(self, identity: bytes) -> None:
        """A connection is no more."""
        with self._lock:
            for each in [each for each in self._known if each[0] == identity]:
                del self._known[each]

    def tell(self, what: str, *, folder: str = "", key: str = "", detail: str = "") -> None:
        """Tell all."""
        with self._lock:
            known = list(self._known.items())
        now = time.time()
        for (_, id_), peer in known:
            self._send(peer, m.Event(id=id_, what=what, folder=folder, key=key, detail=detail, at=now))

    def __len__(self) -> int:
        return len(self._known)
