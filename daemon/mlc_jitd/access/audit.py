"""A line for each compile: who had it made, what it was, how it ended. JSON lines that the service's user alone reads.

What a client said of itself (the folder of its model) stands here and nowhere else; the uid and the pid are the
kernel's word. The file is kept within a bound: at ``BYTES`` it is put aside, and the one before it goes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jitd.access.allowance import WINDOW_SECONDS, Made
from mlc_jitd.engine.onlookers import Onlooker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jit.errors import JitError
    from mlc_jitd.access.allowance import Allowance
    from mlc_jitd.access.requests import Asked
    from mlc_jitd.engine.ledger import JobState
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.work import Built

logger = logging.getLogger(__name__)

BYTES = 16 << 20
COMPILED = "compiled"


@dataclass(frozen=True, slots=True)
class Line:
    """One compile.

    Attributes:
        at: When it ended, as a Unix time.
        uid: Who had it made; the service's own for what the daemon asks for itself.
        pid: Of that process; 0 where the kernel does not tell.
        key: Of the library.
        model: The folder, as its client named it.
        outcome: ``compiled``, ``found`` (another process or host had made it), or the kind of the error.
        seconds: From the job's start to its end.
        bytes: Of the library.
    """

    at: float
    uid: int
    pid: int
    key: str
    model: str
    device: str
    toolchain: str
    outcome: str
    seconds: float
    bytes: int


@dataclass(slots=True)
class _Job:
    state: JobState
    begun: float | None = None


class Audit(Onlooker):
    """Writes the lines, and keeps the users' books by them.

    Args:
        path: The file.
        asked: Who asked under a label, and for which folder.
        allowance: Told what was made for whom.
    """

    def __init__(self, path: Path, asked: Callable[[str], Asked | None], allowance: Allowance) -> None:
        self._path = path
        self._asked = asked
        self._allowance = allowance
        self._jobs: dict[str, _Job] = {}

    def begin(self) -> None:
        """Read what was made within the last day, and see that lines can be written.

        Raises:
            OSError: They can't.
        """
        for path in (self._old, self._path):
            with contextlib.suppress(FileNotFoundError), self._opened(path, os.O_RDONLY) as file:
                for text in file:
                    self._recall(text)
        with self._opened(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT):
            pass

    def enqueued(self, key: str, state: JobState, reason: str, *, background: bool) -> None:  # noqa: ARG002
        """A job was made."""
        self._jobs[key] = _Job(state)

    def started(self, key: str, grant: Grant) -> None:  # noqa: ARG002
        """It began; a second try is the same job."""
        job = self._jobs[key]
        job.begun = time.monotonic() if job.begun is None else job.begun

    def finished(self, key: str, end: Built | JitError | None) -> None:
        """It is over; what never began is no compile."""
        job = self._jobs.pop(key, None)
        if job is None or job.begun is None:
            return
        peer, request = job.state.asking.peer, job.state.asking.request
        asked = self._asked(request.model_path)
        line = Line(
            at=round(time.time(), 3),
            uid=peer.uid,
            pid=peer.pid,
            key=key,
            model=asked.folder if asked is not None else request.model_path,
            device=request.device,
            toolchain=job.state.identity.toolchain.name,
            outcome=_outcome(end),
            seconds=round(time.monotonic() - job.begun, 3),
            bytes=0 if end is None or isinstance(end, Exception) else end.entry.manifest.size,
        )
        if line.outcome == COMPILED:
            self._allowance.add(Made(line.uid, line.bytes, line.at))
        self.write(line)

    def write(self, line: Line) -> None:
        """Append a line; what keeps it from being written is logged."""
        facts = {name: getattr(line, name) for name in Line.__slots__}
        text = json.dumps({**facts, "user": _user(line.uid)}) + "\n"
        try:
            with self._opened(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
                file.write(text)
                long = file.tell() > BYTES
            if long:
                self._path.replace(self._old)
        except OSError as error:
            logger.error("%s can't be written (%s): %s", self._path, error.strerror or error, text.strip())  # noqa: TRY400

    @property
    def _old(self) -> Path:
        return self._path.with_suffix(".1.jsonl")

    @staticmethod
    def _opened(path: Path, flags: int) -> Any:
        return open(
            path,
            "a" if flags & os.O_APPEND else "r",
            encoding="utf-8",
            errors="surrogateescape",
            opener=lambda name, _: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600),
        )

    def _recall(self, text: str) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            made = Made(int(line["uid"]), int(line["bytes"]), float(line["at"]))
            if line["outcome"] == COMPILED and time.time() - made.at < WINDOW_SECONDS:
                self._allowance.add(made)


def _outcome(end: Built | JitError | None) -> str:
    if end is None:
        return "withdrawn"
    if isinstance(end, Exception):
        return end.kind
    return COMPILED if end.compiled else "found"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
