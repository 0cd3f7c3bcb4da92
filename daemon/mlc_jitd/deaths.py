"""Tells at once when a process that waits has ended: one pidfd for each waiting connection, in one epoll set.

Linux only, and only for processes that the kernel names (a peer in another pid namespace has pid 0); elsewhere a
heartbeat that can't be delivered tells it, within two seconds. One thread uses it: the server's.

A pid may have been used again by the time its process is looked up. Then another one is watched in the place of one
that is dead: whatever that one does, nobody who lives is taken for dead, and the next heartbeat finds the connection
closed. So the kernel's word for a pid needs no second proof here.

Not guaranteed: anything for a connection that lives on in a child of the process that made it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys


class Deaths:
    """The processes behind connections."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._fds: dict[bytes, int] = {}
        self._identities: dict[int, bytes] = {}
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._epoll = select.epoll()

    def __bool__(self) -> bool:
        """Whether anybody is watched."""
        return bool(self._fds)

    def fileno(self) -> int:
        """Readable when somebody ended; -1 where that can't be told."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def watch(self, identity: bytes, pid: int) -> bool:
        """Watch the process behind a connection, unless it is watched already.

        Returns:
            Whether it may live: ``False`` only if there is no such process any more.
        """
        if pid <= 0 or identity in self._fds or self._epoll is None or sys.platform != "linux":
            return True
        try:
            fd = os.pidfd_open(pid)
        except OSError as error:
            return error.errno != errno.ESRCH  # no descriptor free, an old kernel, a sandbox: heartbeats will tell
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            os.close(fd)
            return True
        self._fds[identity] = fd
        self._identities[fd] = identity
        return True

    def forget(self, identity: bytes) -> None:
        """The connection waits for nothing any more."""
        fd = self._fds.pop(identity, None)
        if fd is not None:
            del self._identities[fd]
            os.close(fd)  # the only descriptor of it, so the epoll set forgets it too

    def ended(self) -> list[bytes]:
        """The connections whose processes have ended since the last call."""
        if self._epoll is None or not self._fds:
            return []
        found = [self._identities[fd] for fd, _ in self._epoll.poll(0) if fd in self._identities]
        for identity in found:
            self.forget(identity)
        return found

    def close(self) -> None:
        """Give every descriptor back."""
        for identity in list(self._fds):
            self.forget(identity)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
