"""What happened, on disk: lines of JSON that are only ever appended, in files that are put aside when they are long.

Two kinds, in ``model_lib/.history``: ``jobs.jsonl``, one line for each job that ended, and ``counts.jsonl``, how often
what happened in a span of time. Several processes may append (a daemon that drains and its successor, ``once``): a line
is one write. A line that can't be read (torn by a crash, or of a later format) is passed over, never an error.

Not guaranteed: that nothing is lost. History is for people; nothing is decided by it, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mlc_jitd.observe.record import JobRecord  # noqa: TC001 - decoding reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FOLDER = ".history"
"""In ``model_lib``."""

FORMAT = 1

JOB_BYTES = 4 << 20
COUNT_BYTES = 1 << 20
"""A longer file is put aside, and the one that was aside goes: some thousands of jobs, and months of counts."""

LINE_BYTES = 64 << 10
"""A longer line is not written; a real one has 1 to 5 KB."""

HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often what happened between two Unix times."""

    begin: float
    end: float
    counts: dict[str, int]


class _JobLine(msgspec.Struct, kw_only=True):
    v: int = FORMAT
    job: JobRecord


class _CountLine(msgspec.Struct, kw_only=True):
    v: int = FORMAT
    span: Counts


_JOBS, _COUNTS = msgspec.json.Decoder(_JobLine), msgspec.json.Decoder(_CountLine)


class History:
    """The history of one cache. From any thread, one at a time.

    Args:
        library: ``model_lib``; the folder in it is made with the first line.
        job_bytes: Length of a file of jobs.
        count_bytes: Length of a file of counts.
    """

    def __init__(self, library: Path, *, job_bytes: int = JOB_BYTES, count_bytes: int = COUNT_BYTES) -> None:
        self.folder = library / FOLDER
        self._jobs, self._counts = self.folder / "jobs.jsonl", self.folder / "counts.jsonl"
        self._job_bytes, self._count_bytes = job_bytes, count_bytes

    def add_jobs(self, records: Iterable[JobRecord]) -> None:
        """Append jobs that ended.

        Raises:
            OSError: They can't be written.
        """
        self._append(self._jobs, self._job_bytes, [encode(record) for record in records])

    def add_counts(self, counts: Counts) -> None:
        """Append how often what happened.

        Raises:
            OSError: They can't be written.
        """
        self._append(self._counts, self._count_bytes, [msgspec.json.encode(_CountLine(span=counts))])

    def jobs(self) -> Iterator[JobRecord]:
        """The jobs that are known, oldest first.

        Raises:
            OSError: The files are there and can't be read.
        """
        for line in _lines(self._jobs):
            record = decode(line)
            if record is not None:
                yield record

    def counts(self) -> Iterator[Counts]:
        """What was counted, oldest first.

        Raises:
            OSError: The files are there and can't be read.
        """
        for line in _lines(self._counts):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found = _COUNTS.decode(line)
                if found.v <= FORMAT:
                    yield found.span

    def hours(self) -> dict[int, Counter[str]]:
        """Counts by the hour: the Unix time at which each began, in order.

        Raises:
            OSError: The files are there and can't be read.
        """
        found: dict[int, Counter[str]] = {}
        for span in self.counts():
            hour = int(span.end) // HOUR * HOUR
            found.setdefault(hour, Counter()).update(span.counts)
        return dict(sorted(found.items()))

    def _append(self, path: Path, most: int, lines: list[bytes]) -> None:
        lines = [line for line in lines if len(line) <= LINE_BYTES]
        if not lines:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: a line may be torn then
                fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            size += os.write(handle, b"\n" * torn + b"\n".join([*lines, b""]))
            if size >= most and _same(handle, path):
                path.replace(aside(path))
        finally:
            os.close(handle)


def aside(path: Path) -> Path:
    """Where a file of lines is put when it is long."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def encode(record: JobRecord) -> bytes:
    """One job as a line of JSON, without its end."""
    return msgspec.json.encode(_JobLine(job=record))


def decode(line: bytes | str) -> JobRecord | None:
    """The job in a line; ``None`` for anything else, a later format's included."""
    try:
        found = _JOBS.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found.job if found.v <= FORMAT else None


def _lines(path: Path) -> Iterator[bytes]:
    for each in (aside(path), path):
        try:
            file = os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with open(file, "rb") as lines:  # noqa: PTH123 - a descriptor
            if stat.S_ISREG(os.fstat(file).st_mode):
                yield from lines


def _same(handle: int, path: Path) -> bool:
    """Whether a path still leads to an open file: another process may have put it aside."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))  # noqa: PTH116 - see pathlib
    return False
