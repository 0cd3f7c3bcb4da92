"""`run()`: one command, as a process tree within limits, from a thread of the daemon.

It starts the supervisor, passes lines and orders, and turns its report into an `Outcome`. Everything that has to hold
while the daemon is busy or dead is done by the supervisor.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from . import orphans
from .limits import Outcome
from .owners import OWNER
from .supervisor.log import unfinished_tail
from .text import clean_line, clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .cgroup import Group, JobGroups
    from .limits import CommandLike, Limits, Status
    from .stop import StopSignal

__all__ = ["SupervisorLike", "run"]

SUPERVISOR_SILENCE = 60.0
"""Seconds without the half-second sample after which a supervisor counts as hung (stopped, say) and is killed."""

_BOOT = Path(__file__).with_name("supervisor") / "boot.py"
_PASSED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without them some interpreters don't start
_NOISE = 4096


class SupervisorLike(Protocol):
    """A supervisor that waits for its job: `subprocess.Popen`, or one that a warm compiler forked."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """Takes the job and orders, unbuffered; its end is the daemon's end."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """Gives the report, unbuffered."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """SIGKILL."""


def run(
    command: CommandLike,
    limits: Limits,
    *,
    log: Path,
    on_line: Callable[[str], None],
    stop: StopSignal,
    inherit: tuple[int, ...] = (),
    start: Callable[[], SupervisorLike] | None = None,
    groups: JobGroups | None = None,
    owner: str = "",
) -> Outcome:
    """Run a command and return when it and all of its descendants are gone. Blocks; call it in a thread.

    Args:
        command: What to run. Nobody's environment, descriptors or signal settings reach it but those given.
        limits: What it may use.
        log: Where its output goes, bounded; the folder must exist. A log that can't be written harms nothing.
        on_line: Called in this thread with some of the lines as they come, cleaned, at most 2,000 characters each.
        stop: Ends the run from another thread: SIGTERM to the tree, SIGKILL after the grace.
        inherit: Descriptors that the command gets under their own numbers; here they are closed once it has them.
        start: Gives another supervisor than a new process.
        groups: Where the command gets a control group of its own, if one can be had.
        owner: Who runs it, as `owners.name_of` says: told to its processes.

    Returns:
        How it ended. A command that can't be started is an outcome (``lost``), not an exception.

    Raises:
        Exception: What `on_line` raised, after the tree was ended.

    Not guaranteed: on macOS, that a descendant which left the process group and lost its parent is found. Anywhere,
    what other services start on the command's behalf; and when the supervisor and this process are killed at the same
    moment, more than the end of the command itself (its children stay until `owners.end_leftovers`).
    """
    job = uuid.uuid4().hex
    try:
        if stop.reason is not None:
            return _unstarted("cancelled", f"{stop.reason} before it was started", log)
        process = start() if start is not None else _start_supervisor(inherit)
    except OSError as error:
        return _unstarted("lost", f"cannot start the supervisor: {error}", log)
    finally:
        for fd in inherit:
            os.close(fd)
    began = time.monotonic()
    group = (
        groups.make(cores=limits.cores, background=limits.background, memory=limits.memory_bytes)
        if groups is not None
        else None
    )
    message: dict[str, object] = {
        "id": job,
        "env": {
            _portable(name): _portable(value) for name, value in (*command.env, *([(OWNER, owner)] if owner else ()))
        },
        "inherit": inherit,
        "groups": [(_portable(str(folder)), holds) for folder, holds in group.entries] if group is not None else [],
    }
    talk = _Talk(process, _job_text(message, command, limits, log), on_line)
    try:
        with _wake_pipe(stop) as wake:
            talk.until_end(wake, stop, group, limits)
    finally:
        talk.close(limits.grace)
        left = orphans.sweep(job, talk.tree) if talk.done is None else []
        if group is not None:
            group.remove()
    if talk.done is None:
        return _lost(talk, job, limits, log, seconds=time.monotonic() - began, left=left)
    return _outcome(talk.done, log)


class _Talk:
    """The conversation with one supervisor."""

    def __init__(self, process: SupervisorLike, job: bytes, on_line: Callable[[str], None]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._control = process.stdin.fileno()
        self._report = process.stdout.fileno()
        self._on_line = on_line
        self._outgoing = job
        self._incoming = b""
        self._hung = False
        self._poll = select.poll()
        self._poll.register(self._report, select.POLLIN)
        os.set_blocking(self._control, False)
        self.done: dict[str, Any] | None = None
        self.tree: list[tuple[int, int, int]] = []
        self.peak = 0
        self.noise = ""

    def until_end(self, wake: int, stop: StopSignal, group: Group | None, limits: Limits) -> None:
        """Until the supervisor has closed its report, died, or was silent for too long."""
        self._poll.register(wake, select.POLLIN)
        heard = time.monotonic()
        background = limits.background
        while True:
            self._send()
            ready = self._poll.poll(math.ceil(1000 * max(0.1, heard + SUPERVISOR_SILENCE - time.monotonic())))
            # The second look is for a daemon that was itself stopped for long, just then.
            if not ready and time.monotonic() > heard + SUPERVISOR_SILENCE and not self._poll.poll(0):
                break
            for fd, _ in ready:
                if fd == wake:
                    os.read(wake, 64)
                    if stop.reason is not None:
                        self._outgoing += f"stop {stop.reason}\n".encode("ascii")
                    elif stop.promoted and background:
                        background = False
                        self._outgoing += b"promote\n"
                        if group is not None:
                            group.promote(limits.cores)
                elif fd == self._report:
                    if not self._read():
                        return
                    heard = time.monotonic()
        self._hung = True
        self.noise += f"it did nothing for {SUPERVISOR_SILENCE:g} s"

    def close(self, grace: float) -> None:
        """Close both pipes and wait for the supervisor's end; without a report it gets the grace and 15 s."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if self.done is None and not self._hung:
            self._on_line = _ignore
            give_up_at = time.monotonic() + grace + 15
            poll = select.poll()
            poll.register(self._report, select.POLLIN)
            while time.monotonic() < give_up_at:
                if poll.poll(1000) and not self._read():
                    break
        self._process.stdout.close()
        try:
            self._process.wait(0 if self.done is None else 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self) -> None:
        if self._outgoing:
            try:
                self._outgoing = self._outgoing[os.write(self._control, self._outgoing) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                self._outgoing = b""
        if self._outgoing:
            self._poll.register(self._control, select.POLLOUT)
        else:
            self._poll.register(self._control, 0)

    def _read(self) -> bool:
        chunk = os.read(self._report, 65536)
        *lines, self._incoming = (self._incoming + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        return bool(chunk)

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):  # an interpreter that fails to start says so in plain text
            self.noise = (self.noise + line.decode("utf-8", "replace") + "\n")[-_NOISE:]
            return
        if kind == "lines":
            for text in event["lines"]:
                cleaned = clean_line(text)
                if cleaned:
                    self._on_line(cleaned)
        elif kind == "sample":
            self.peak = max(self.peak, event["rss"])
            if event["tree"] is not None:
                self.tree = [(pid, start, session) for pid, start, session in event["tree"]]
        elif kind == "done":
            self.done = event
        elif kind == "broken":
            self.noise += event["detail"]


def _start_supervisor(inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(_BOOT)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={name: os.environ[name] for name in _PASSED if name in os.environ},
        start_new_session=True,
        pass_fds=inherit,
    )


@contextmanager
def _wake_pipe(stop: StopSignal) -> Iterator[int]:
    out, into = os.pipe()
    try:
        stop.attach(lambda: _knock(into))
        try:
            yield out
        finally:
            stop.detach()
    finally:
        os.close(out)
        os.close(into)


def _knock(fd: int) -> None:
    os.write(fd, b"!")


def _ignore(_: str) -> None:
    pass


def _job_text(given: dict[str, object], command: CommandLike, limits: Limits, log: Path) -> bytes:
    message = {
        **given,
        "argv": [_portable(part) for part in command.argv],
        "cwd": _portable(str(command.cwd)),
        "log": _portable(str(log.absolute())),
        "total": limits.total,
        "silence": limits.silence,
        "log_bytes": limits.log_bytes,
        "memory_bytes": limits.memory_bytes,
        "grace": limits.grace,
        "cores": limits.cores,
        "background": limits.background,
        "line_rate": limits.line_rate,
        "marks": list(limits.marks),
    }
    return json.dumps(message).encode("ascii") + b"\n"


def _portable(text: str) -> str:
    """The same bytes for the supervisor, which decodes file names as UTF-8 whatever this process's locale is."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def _outcome(done: dict[str, Any], log: Path) -> Outcome:
    return Outcome(
        status=done["status"],
        exit_status=done["exit_status"],
        signal=done["signal"],
        seconds=done["seconds"],
        cpu_seconds=done["cpu_seconds"],
        peak_memory=done["peak_memory"],
        log_tail=clean_text(done["tail"]),
        log_path=log,
        log_truncated=done["log_truncated"],
        detail=done["detail"],
        yielding=tuple(done["yielding"]),
        oom_kills=done["oom_kills"],
    )


def _unstarted(status: Status, detail: str, log: Path) -> Outcome:
    return Outcome(
        status=status,
        exit_status=None,
        signal=None,
        seconds=0.0,
        cpu_seconds=0.0,
        peak_memory=0,
        log_tail="",
        log_path=log,
        log_truncated=False,
        detail=detail,
    )


def _lost(talk: _Talk, job: str, limits: Limits, log: Path, *, seconds: float, left: list[int]) -> Outcome:
    detail = f"its supervisor died: {talk.noise.strip()}" if talk.noise else "its supervisor was killed"
    if left:
        detail += f"; some of its processes could not be killed: {', '.join(map(str, left))}"
    try:
        tail, truncated = unfinished_tail(log.read_bytes(), limits.log_bytes, job)
    except OSError:
        tail, truncated = b"", False
    return Outcome(
        status="lost",
        exit_status=None,
        signal=None,
        seconds=seconds,
        cpu_seconds=0.0,
        peak_memory=talk.peak,
        log_tail=clean_text(tail.decode("utf-8", "replace")),
        log_path=log,
        log_truncated=truncated,
        detail=detail,
    )
