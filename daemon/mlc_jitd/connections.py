"""How many clients are connected, whether they have said anything or not.

ZeroMQ tells of connections that come and go, each by its descriptor. Somebody has to listen: it keeps some 2,000 of its
reports, and when nobody took them its own thread waits with the next one, and no connection of the socket is served any
more. So whoever serves the socket polls `Connections.reports` beside it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


MOST = 8192
"""Reports taken in at once, more than ZeroMQ keeps; who connects again and again must not keep the thread here."""
_REPORT = struct.Struct("=hi")
"""An event and its descriptor: the first frame of ZeroMQ's report (zmq_socket_monitor(3)). pyzmq's own reader of it
imports asyncio, which takes 8 MB of the daemon's memory."""


class Connections:
    """Of one socket; used in the socket's thread.

    Args:
        socket: Not bound yet.
        came: Told the descriptor of each connection that was accepted.
        went: Told that of each that is no more.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        came: Callable[[int], None] = lambda _descriptor: None,
        went: Callable[[int], None] = lambda _descriptor: None,
    ) -> None:
        self._socket = socket
        self._came, self._went = came, went
        self._reports: Any = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._open: set[int] = set()

    @property
    def reports(self) -> Any:
        """What to poll: readable when there is something to take in."""
        return self._reports

    def take(self, most: int = MOST) -> None:
        """Take in what ZeroMQ told, at most so many reports of it."""
        for _ in range(most):
            if not self._reports.poll(0):
                return
            event, descriptor = _REPORT.unpack(self._reports.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._open.add(descriptor)
                self._came(descriptor)
            else:
                self._open.discard(descriptor)
                self._went(descriptor)

    def count(self) -> int:
        """How many there are now."""
        self.take()
        return len(self._open)

    def close(self) -> None:
        """Listen no more."""
        self.take()  # a thread that waits with a report holds the lock that is needed to end it
        self._socket.disable_monitor()
        self._reports.close(0)
