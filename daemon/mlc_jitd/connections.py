"""How many clients are connected, whether they have said anything or not.

ZeroMQ tells of connections that come and go, each by its descriptor; they are counted when somebody asks. Not
guaranteed: the right number right after thousands came at once, since ZeroMQ keeps only so many of its reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.utils.monitor import recv_monitor_message

if TYPE_CHECKING:
    from typing import Any


class Connections:
    """Of one socket; used in the socket's thread.

    Args:
        socket: Not bound yet.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._reports: Any = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._open: set[int] = set()

    def count(self) -> int:
        """How many there are now."""
        while self._reports.poll(0):
            report = recv_monitor_message(self._reports)
            if report["event"] == zmq.EVENT_ACCEPTED:
                self._open.add(report["value"])
            else:
                self._open.discard(report["value"])
        return len(self._open)

    def close(self) -> None:
        """Listen no more."""
        self._socket.disable_monitor()
        self._reports.close(0)
