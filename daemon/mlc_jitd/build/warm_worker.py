"""One warm compiler, seen from the daemon: a process that imported it and forks a supervisor for each job.

The tree of a warm job, all of it under a plain supervisor, which ends it when the daemon dies:

    daemon - supervisor - worker (imported the compiler) - supervisor of the job - job

What is forked is an ordinary supervisor, so limits, log, yielding and outcome of a warm job are those of a plain one. A
worker that dies takes its jobs with it (the kernel sees to that), and who runs them starts them anew.
What does not belong here: which worker a job gets, and when one is retired (`warm`).
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .limits import Limits
from .runner import run
from .stop import StopSignal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cgroup import JobGroups
    from .limits import CommandLike, Outcome

__all__ = ["Forked", "UnfitError", "Worker"]

FORK_SECONDS = 20.0
"""How long a worker may take to fork; one that is stopped, or stuck, is given up."""

_END_SECONDS = 15.0
_SUPERVISOR = Path(__file__).with_name("supervisor")
_LOG_BYTES = 256 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LONGEST_MESSAGE = 4096


class UnfitError(Exception):
    """A worker can't fork a job; the text says why."""


class Worker:
    """Starts at once; is `ready` when the compiler is imported. Methods may be called from any thread.

    Args:
        make: The command that becomes the worker, from a folder of its own, which is removed behind the import: a
            worker that is killed leaves nothing.
        holds: Whether the compiler is still the one that was to be imported.
        name: For its thread.
        groups: Where it gets a control group of its own; its jobs leave that for theirs.
        owner: As in `run`.
    """

    def __init__(
        self,
        make: Callable[[Path], CommandLike],
        holds: Callable[[], bool],
        name: str,
        groups: JobGroups | None = None,
        owner: str = "",
    ) -> None:
        self.name = name
        self.used = time.monotonic()
        self.busy = 0
        self.jobs = 0
        self.retired = False
        self.pid = 0
        self.baseline = 0
        self.outcome: Outcome | None = None
        self._holds: Callable[[], bool] | None = holds
        self._groups = groups
        self._owner = owner
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._greeted = False
        self._stop = StopSignal()
        self._folder = tempfile.TemporaryDirectory(prefix="mlc-jitd-warm-", ignore_cleanup_errors=True)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = _Command(make(Path(self._folder.name)), theirs.fileno())
        self._thread = threading.Thread(target=self._keep, args=(command, theirs.detach()), name=name, daemon=True)
        self._thread.start()

    def ready(self, limit: float, stop: StopSignal) -> bool:
        """Wait until the compiler is imported; False if `stop` said so, or the worker was retired.

        Raises:
            UnfitError: The import failed, took too long, or left a process that can't be forked.
        """
        give_up_at = time.monotonic() + limit
        while stop.reason is None and not self.retired:
            with self._lock:
                if self._greeted or self._greet():
                    return True
            if time.monotonic() > give_up_at:
                raise UnfitError(f"it was not ready after {limit:g} s")
        return False

    def is_ready(self) -> bool:
        """Whether a job would have to wait for the import no longer."""
        return self._greeted

    def is_of_its_build(self) -> bool:
        """Whether what was imported is what was to be: the answer of one look, behind the import."""
        with self._lock:
            if self._holds is not None and self._holds():
                self._holds = None
            return self._holds is None

    def _greet(self) -> bool:
        """Look for the first message, for a moment."""
        if self._channel.fileno() < 0 or not _readable(self._channel.fileno(), 0.1):
            return False
        said, _ = self._receive()
        if said is None:
            self._ended.wait(_END_SECONDS)
            last = self.outcome.log_tail.strip().rpartition("\n")[2] if self.outcome else ""
            raise UnfitError(f"it ended while it imported the compiler: {last}")
        if said["unfit"]:
            raise UnfitError(said["unfit"])
        self.pid = int(said["pid"])
        self.baseline = self.memory()
        self._greeted = True
        self._folder.cleanup()
        return True

    def fork(self) -> Forked:
        """A supervisor that waits for its job.

        Raises:
            UnfitError: It can't be forked, or is no more.
        """
        control, control_end = os.pipe()
        report_end, report = os.pipe()
        try:
            with self._lock:
                try:
                    socket.send_fds(self._channel, [b"fork"], [control, report])
                    ready = _readable(self._channel.fileno(), FORK_SECONDS)
                    said, descriptors = self._receive() if ready else ({"unfit": "it did not answer"}, [])
                except OSError as error:
                    said, descriptors = {"unfit": str(error)}, []
        finally:
            os.close(control)
            os.close(report)
        if not said or not descriptors:
            os.close(control_end)
            os.close(report_end)
            raise UnfitError(str(said.get("unfit", "it gave no answer")) if said else "it ended")
        self.jobs += 1
        return Forked(control_end, report_end, descriptors[0])

    def died(self) -> bool:
        """Whether the worker itself is no more, although nobody ended it and its supervisor lives."""
        if self.retired or not self._closed():
            return False
        self._ended.wait(_END_SECONDS)
        return self.outcome is not None and self.outcome.status != "lost"

    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return not self._ended.is_set() and not self._closed()

    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return not self._thread.is_alive()

    def memory(self) -> int:
        """Bytes resident now; 0 when it is gone."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0

    def retire(self) -> None:
        """End it, and its jobs if there are any. Returns at once."""
        self.retired = True
        self._stop.stop("draining")

    def join(self) -> None:
        """Wait until its tree is gone."""
        self._thread.join()

    def _keep(self, command: _Command, theirs: int) -> None:
        try:
            self.outcome = run(
                command,
                Limits(total=None, silence=None, log_bytes=_LOG_BYTES, grace=1.0),
                log=Path(os.devnull),
                on_line=_ignore,
                stop=self._stop,
                inherit=(theirs,),
                groups=self._groups,
                owner=self._owner,
            )
        finally:
            self._ended.set()
            with self._lock:
                self._channel.close()
                self._folder.cleanup()

    def _closed(self) -> bool:
        """Whether the worker's end of the channel is closed."""
        with self._lock:
            if self._channel.fileno() < 0:
                return True
            try:
                return not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                return True

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _LONGEST_MESSAGE, 1)
        except OSError:
            return None, []
        return (json.loads(data) if data else None), descriptors


class _Command:
    """The worker's command, with what this room adds to it."""

    def __init__(self, given: CommandLike, channel: int) -> None:
        self.argv = (*given.argv, "--supervisor", str(_SUPERVISOR), "--channel", str(channel))
        self.env = given.env
        self.cwd = Path("/")


class Forked:
    """A supervisor that a worker forked; to `run` it is like the process that it starts itself."""

    def __init__(self, control: int, report: int, pidfd: int) -> None:
        self.stdin: io.FileIO = io.FileIO(control, "w")
        self.stdout: io.FileIO = io.FileIO(report, "r")
        self._pidfd = pidfd

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; its status is its parent's to know, so 0."""
        if not _readable(self._pidfd, timeout):
            raise subprocess.TimeoutExpired("supervisor", timeout or 0.0)
        return 0

    def kill(self) -> None:
        """SIGKILL; never hits another process."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it: one that got no job ends by itself."""
        self.stdin.close()
        self.stdout.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _readable(fd: int, seconds: float | None) -> bool:
    poll = select.poll()  # select() can't take descriptors beyond 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _ignore(_: str) -> None:
    pass
