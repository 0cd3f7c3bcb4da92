"""What passes between daemon and supervisor: one JSON object a line, ``job`` in, then ``stop REASON``; events out.

Events: ``started`` {pid}, ``lines`` {lines}, ``sample`` {rss, tree}, ``done`` {the outcome}, ``broken`` {detail}.
A sample comes every half second, whatever the command does: it is the supervisor's heartbeat as well.
"""

from __future__ import annotations

import json
import os

_ENOUGH = 256 * 1024  # bytes waiting for a daemon that is busy: beyond them lines and samples are dropped


class Job:
    """The job as it came in; times in seconds, sizes in bytes, None for no limit."""

    __slots__ = (
        "argv", "background", "cores", "cwd", "env", "grace", "groups", "id", "inherit", "line_rate", "log",
        "log_bytes", "marks", "memory_bytes", "silence", "total",
    )  # fmt: skip

    id: str
    inherit: list[int]
    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    total: float | None
    silence: float | None
    log_bytes: int
    memory_bytes: int | None
    grace: float
    groups: list[tuple[str, list[str]]]  # control groups to enter, and what then holds
    cores: int
    background: bool
    line_rate: float
    marks: list[str]

    def __init__(self, text: bytes) -> None:
        given = json.loads(text)
        for name in self.__slots__:
            setattr(self, name, given[name])


def read_job(control: int) -> tuple[Job, bytes] | None:
    """The job from the pipe and what came behind it, None when the daemon died before it had written all of it."""
    text = b""
    while b"\n" not in text:
        chunk = os.read(control, 65536)
        if not chunk:
            return None
        text += chunk
    line, _, rest = text.partition(b"\n")
    return Job(line), rest


class Report:
    """Events on their way to the daemon. It may be slow, or dead: that never blocks or ends the supervisor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = b""
        self._gone = False
        os.set_blocking(fd, False)

    def event(self, kind: str, *, keep: bool = True, **fields: object) -> None:
        """Send an event; without `keep` it is dropped when too much is waiting already."""
        if self._gone or (not keep and len(self.waiting) > _ENOUGH):
            return
        self.waiting += json.dumps({"event": kind, **fields}).encode("ascii") + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self.waiting and not self._gone:
            try:
                self.waiting = self.waiting[os.write(self.fd, self.waiting) :]
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more
                self._gone = True
                self.waiting = b""

    def finish(self) -> None:
        """Write everything, however long the daemon takes; ends when it dies."""
        os.set_blocking(self.fd, True)
        self.flush()
