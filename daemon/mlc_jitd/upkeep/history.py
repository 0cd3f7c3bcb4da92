"""What was compiled: when, how long it took, who asked, how it ended, and why it failed; newest first."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlc_jit import channel
from mlc_jit import messages as m
from mlc_jit.errors import JitError, StoreUnwritableError
from mlc_jit.locations import cache_home, locate
from mlc_jit.reach import served
from mlc_jitd.observe import History, JobRecord
from mlc_jitd.observe.history import decode
from mlc_jitd.store import Layout

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from mlc_jitd.observe.history import Counts
    from mlc_jitd.upkeep import Tell

LAST = 20


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_choice(parser, last=LAST)


def add_choice(parser: argparse.ArgumentParser, *, last: int) -> None:
    """Declare which compiles are meant."""
    parser.add_argument("model", nargs="?", default="", help="a model folder, or a part of its path or of a key")
    parser.add_argument("--last", type=_count, default=last, help="how many; 0 for all that are known")
    parser.add_argument("--failed", action="store_true", help="only those that failed")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Do it.

    Raises:
        StoreUnwritableError: The history can't be read.
    """
    known = Known.read()
    meant = [job for job in known.ended if _wanted(job, arguments.model, failed=arguments.failed)]
    found = [*reversed(chosen(meant, arguments))]
    return {
        "folder": str(known.history.folder),
        "known": len(known.ended),
        "matched": len(meant),
        "jobs": [{**msgspec.to_builtins(job), "queued": round(job.queued, 3)} for job in found],
    }


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of this home's compiles; those that ended in the order in which they were asked for."""

    history: History
    ended: list[JobRecord]

    @classmethod
    def read(cls) -> Known:
        """Read it.

        Raises:
            StoreUnwritableError: It can't be read.
        """
        history = History(Layout.of(cache_home()).library)
        try:
            return cls(history, sorted(history.jobs(), key=lambda job: job.asked))
        except OSError as error:
            raise _unreadable(history, error) from error

    def counts(self) -> list[Counts]:
        """How often what happened, oldest first.

        Raises:
            StoreUnwritableError: It can't be read.
        """
        try:
            return list(self.history.counts())
        except OSError as error:
            raise _unreadable(self.history, error) from error

    def hours(self) -> dict[int, Counter[str]]:
        """Counts by the hour: the Unix time at which each began, in order.

        Raises:
            StoreUnwritableError: They can't be read.
        """
        try:
            return self.history.hours()
        except OSError as error:
            raise _unreadable(self.history, error) from error

    def under_way(self) -> list[JobRecord]:
        """The compiles that have not ended: a running daemon is asked. None is started, and its trouble is not ours."""
        found: list[JobRecord] = []
        with contextlib.suppress(JitError):
            socket = locate().socket
            if not served(socket):
                return []
            for reply in channel.query(socket, lambda id_: m.RecordsRequest(id=id_)):
                if not isinstance(reply, m.Records):
                    break  # an older daemon
                found += filter(None, map(decode, reply.jobs))
                if not reply.more:
                    break
        return found


def chosen(jobs: Iterable[JobRecord], arguments: argparse.Namespace) -> list[JobRecord]:
    """The compiles that are meant."""
    asked = (job for job in jobs if _wanted(job, arguments.model, failed=arguments.failed))
    return list(deque(asked, arguments.last or None))


def _wanted(job: JobRecord, model: str, *, failed: bool) -> bool:
    if failed and job.ending.outcome != "failed":
        return False
    subject = job.subject
    return not model or model in subject.model or subject.key.startswith(model) or _same(model, subject.model)


def _same(one: str, other: str) -> bool:
    return os.path.isdir(one) and os.path.abspath(one) == os.path.abspath(other)  # noqa: PTH100, PTH112 - no links


def _unreadable(history: History, error: OSError) -> StoreUnwritableError:
    return StoreUnwritableError(
        f"The history in {history.folder} can't be read: {error.strerror or error}.",
        remedy="Only its owner may read it; ask as that user, or remove what lies there.",
        reason="denied",
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is no number of compiles")
    return count
