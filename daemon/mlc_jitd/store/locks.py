"""The lock of a key: whoever compiles or publishes it holds it, in the daemon and without one.

The kernel releases it when its holder ends, however it ends. Lock files stay: removing one would let two waiters hold
two files of one name.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mlc_jitd.store.layout import check_key
from mlc_jitd.store.trouble import translated

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

POLL_SECONDS = 0.1
"""How often a waiter tries again: compiles take seconds to minutes."""

_LONG = 3600.0
"""One turn of an endless wait. Finite, because filelock takes an endless wait in a thread that holds the same path
through another object for a deadlock; here another thread may release it."""


class KeyLock:
    """The lock of one key. Between threads and between processes, one holder at a time; not re-entrant.

    Any thread may release what another acquired. Not guaranteed: an order among waiters; anything at all on a file
    system whose ``flock`` lies, as some FUSE and old NFS mounts do.
    """

    def __init__(self, path: Path, key: str, held: _Held) -> None:
        self.key = key
        self.path = path
        self._held = held
        # One object shared by two threads must exclude them too, and filelock's counts instead.
        self._mutex = threading.Lock()
        self._file = FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False, on_acquired=_sign)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file.is_locked

    def acquire(self, timeout: float | None = None, *, poll: float = POLL_SECONDS) -> bool:
        """Take the lock.

        Args:
            timeout: Seconds to wait for it; ``None`` waits for ever, 0 tries once.
            poll: Seconds between tries.

        Returns:
            Whether it was taken.

        Raises:
            StoreError: The lock file can't be made or locked; ``StoreUnwritableError`` and ``StoreFullError`` where
                that is the reason.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._mutex.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            return False
        taken = False
        try:
            with translated("lock a key", self.path.parent, key=self.key):
                taken = self._wait(deadline, poll)
        finally:
            if taken:
                self._held.add(self.key)
            else:
                self._mutex.release()
        return taken

    def _wait(self, deadline: float | None, poll: float) -> bool:
        while True:
            turn = _LONG if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                self._file.acquire(timeout=turn, poll_interval=poll, blocking=turn > 0)
            except Timeout:
                if deadline is not None:
                    return False
            else:
                return True

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if not self._file.is_locked:
            return
        self._held.remove(self.key)
        self._file.release()
        self._mutex.release()

    def holder(self) -> str:
        """For people: who took the lock last and when, or an empty string. It may have been released since."""
        try:
            note = json.loads(self.path.read_bytes())
            return f"process {int(note['pid'])} on {note['host']}, since {time.ctime(note['since'])}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def frozen(self) -> str:
        """Who holds the lock, if that process is stopped (SIGSTOP, a debugger) and so will not give it back by itself.

        Not guaranteed: a holder on another host, in another pid namespace, or frozen by its control group looks alive.
        """
        try:
            note = json.loads(self.path.read_bytes())
            if note["host"] != socket.gethostname():
                return ""
            state = Path(f"/proc/{int(note['pid'])}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return ""
        return self.holder() if state in ("T", "t") else ""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class KeyLocks:
    """Makes the locks of one home and knows which keys this process holds through it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = _Held()

    def lock(self, key: str) -> KeyLock:
        """A new lock object for the key.

        Raises:
            ValueError: The key is not 64 hex digits.
        """
        return KeyLock(self._folder / check_key(key), key, self._held)

    def held(self, key: str) -> bool:
        """Whether some thread of this process holds the key's lock."""
        return key in self._held.keys


class _Held:
    """The keys that are held; one holder each, so a set is enough."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def add(self, key: str) -> None:
        self.keys.add(key)

    def remove(self, key: str) -> None:
        self.keys.discard(key)


def _sign(fd: int) -> None:
    """Write who holds the lock into its file; a full disk must not keep anybody from locking."""
    note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode()
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, note, 0)
    except OSError:
        return
