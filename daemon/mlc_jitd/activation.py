"""A listening socket that the service manager made and passed to us: systemd's LISTEN_FDS, launchd's check-in.

What does not belong here: what is done with it (``door``), and what the manager is told (``notify``).
Sources: sd_listen_fds(3), launch_activate_socket(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

FIRST = 3
NAME = "Listeners"
"""The key of the socket in the launchd agent."""

_SYSTEMD = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take() -> socket.socket | None:
    """The socket that was passed, once; None where none was. Compilers do not inherit it."""
    numbers = _of_systemd() or (_of_launchd() if sys.platform == "darwin" else [])
    found = None
    for number in numbers:
        os.set_inheritable(number, False)
        with contextlib.suppress(OSError):  # no socket at all
            each = socket.socket(fileno=number)
            if found is None and each.family == socket.AF_UNIX and each.type == socket.SOCK_STREAM:
                found = each
            else:
                each.detach()
    return found


def _of_systemd() -> list[int]:
    pid, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS", "")
    for name in _SYSTEMD:
        os.environ.pop(name, None)
    return list(range(FIRST, FIRST + int(count))) if pid == str(os.getpid()) and count.isdigit() else []


def _of_launchd() -> list[int]:
    import ctypes  # noqa: PLC0415 - on macOS alone

    system = ctypes.CDLL(None)
    numbers, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    if system.launch_activate_socket(NAME.encode(), ctypes.byref(numbers), ctypes.byref(count)):
        return []  # not started by launchd, or it could not make the socket
    found = list(numbers[: count.value])
    system.free(numbers)
    return found
