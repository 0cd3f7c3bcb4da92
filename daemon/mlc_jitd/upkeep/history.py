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
UNDER_WAY = ("queued", "running")


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
    known, host = Known.read(), ""
    with contextlib.suppress(JitError):
        host = os.fspath(locate().socket) if locate().system else ""
    meant = [job for job in known.ended if _wanted(job, arguments.model, failed=arguments.failed)]
    found = [*reversed(chosen(meant, arguments))]
    return {
        "folder": str(known.history.folder),
        "host": host,
        "known": len(known.ended),
        "matched": len(meant),
        "jobs": [{**msgspec.to_builtins(job), "queued": round(job.queued, 3)} for job in found],
    }


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of compiles; those that ended in the order in which they were asked for.

    Those of this home are on disk. Where the host's daemon serves this user, it tells what it remembers of the user's.
    """

    history: History
    ended: list[JobRecord]
    current: list[JobRecord]
    """Those that have not ended, where they were wanted and a daemon runs."""

    @classmethod
    def read(cls, *, current: bool = False, host: bool = True) -> Known:
        """Read it.

        Args:
            current: Also ask this user's daemon for what is under way. None is started, and its trouble is not ours.
            host: Also ask the host's daemon, where it serves this user, for what this user had compiled.

        Raises:
            StoreUnwritableError: It can't be read.
        """
        history = History(Layout.of(cache_home()).library)
        told = _told(current=current, host=host)
        try:
            ended = [*history.jobs(), *(job for job in told if job.ending.outcome not in UNDER_WAY)]
        except OSError as error:
            raise _unreadable(history, error) from error
        live = [job for job in told if job.ending.outcome in UNDER_WAY]
        return cls(history, sorted(ended, key=lambda job: job.asked), live)

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


def _told(*, current: bool, host: bool) -> list[JobRecord]:
    """What a running daemon tells: compiles under way; the host's daemon also of those that ended."""
    found: list[JobRecord] = []
    with contextlib.suppress(JitError):
        places = locate()
        if not (current or (host and places.system)) or not served(places.socket):
            return []
        for reply in channel.query(places.socket, lambda id_: m.RecordsRequest(id=id_, ended=places.system)):
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
