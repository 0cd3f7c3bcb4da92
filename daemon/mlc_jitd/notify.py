"""sd_notify(3): tell the service manager, where there is one, how this service is. Silent where there is none."""

from __future__ import annotations

import contextlib
import os
import socket


def send(state: str) -> bool:
    """Send a state such as ``READY=1``; whether there was anybody to send it to."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address)
        return True
    return False
