"""How many clients are connected, whether they have said anything or not.

ZeroMQ tells of connections that come and go, each by its descriptor; what it told is taken in when somebody asks. Not
guaranteed: the right number right after thousands came at once, since ZeroMQ keeps only so many of its reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.utils.monitor import recv_monitor_message

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


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

    def take(self) -> None:
        """Take in what ZeroMQ told."""
        while self._reports.poll(0):
            report = recv_monitor_message(self._reports)
            descriptor = report["value"]
            if report["event"] == zmq.EVENT_ACCEPTED:
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
        self._socket.disable_monitor()
        self._reports.close(0)
