"""Follows the engine and remembers what happens; a thread of its own writes that down. Decides nothing.

The engine's thread adds to the record, in microseconds and without a file. Hits that the server's thread answers are
counted there already: how many is asked now and then, never told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from mlc_jit.messages import Failure, Records
from mlc_jitd.engine import Onlooker
from mlc_jitd.observe.ends import ending, subject_of
from mlc_jitd.observe.history import HOUR, Counts, History, encode
from mlc_jitd.observe.record import Answer, JobRecord, Record
from mlc_jitd.observe.viewer import Viewer
from mlc_jitd.observe.who import who
from mlc_jitd.store import Missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jit.errors import JitError
    from mlc_jit.messages import JitRequest, Message, RecordsRequest, Result
    from mlc_jitd.broker import Asker
    from mlc_jitd.engine import Asking, JobState
    from mlc_jitd.observe.record import Source
    from mlc_jitd.peers import Peer
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.work import Built, LookUp

logger = logging.getLogger(__name__)

COUNT_SECONDS = 300.0
"""How often counts are written while there is something new; at the full hour and at the end besides."""

CHUNK = 32
"""Jobs in one message: a line has at most some 30 KB."""

LAST_SECONDS = 5.0
"""How long the end of a daemon waits for a disk."""

UNWRITTEN = 1024
"""Jobs that wait to be written, on a disk that hangs, say; more are not kept."""


class Recorder(Onlooker):
    """See the module's docstring. ``start`` and ``close`` are called once each.

    Args:
        history: Where it is written.
        hits: How often the server's thread has answered by itself.
        later: Runs something in a thread.
        reply: Sends a message to whoever asked.
    """

    def __init__(
        self,
        history: History,
        *,
        hits: Callable[[], int],
        later: Callable[[Callable[[], None]], None],
        reply: Callable[[Peer, Message], None],
    ) -> None:
        self._later, self._reply = later, reply
        self._history = history
        self._hits = hits
        self._record = Record()
        self._lock = threading.Lock()
        self._unwritten: list[JobRecord] = []
        self._written: Counter[str] = Counter()
        self._since = time.time()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write down what there is, and end."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_SECONDS)

    def asked(self, peer: Peer, request: RecordsRequest) -> None:
        """Answer with the jobs that this peer may know of; the verb ``records``. The work is done in a thread."""

        def answer() -> None:
            jobs = [*(self.last_jobs() if request.ended else ()), *self.jobs()]
            lines = [encode(job).decode() for job in Viewer.of(peer).own(jobs)]
            for start in range(0, max(1, len(lines)), CHUNK):
                more = start + CHUNK < len(lines)
                self._reply(peer, Records(id=request.id, jobs=tuple(lines[start : start + CHUNK]), more=more))

        self._later(answer)

    # --- for those who show it, from any thread ---------------------------------------------------------------------

    def jobs(self) -> list[JobRecord]:
        """The jobs under way, as they are now."""
        with self._lock:
            return list(self._record.jobs(time.monotonic()))

    def last_jobs(self) -> list[JobRecord]:
        """The last jobs that ended, oldest first."""
        with self._lock:
            return list(self._record.ended)

    def last_answers(self) -> list[Answer]:
        """The last answers, oldest first; without the hits that are only counted."""
        with self._lock:
            return list(self._record.answers)

    def counts(self) -> Counter[str]:
        """How often what happened since the daemon began; see docs/seeing.md for the names."""
        with self._lock:
            counts = Counter(self._record.counts)
        counts["hit"] += self._hits()
        return counts

    # --- what the engine tells, in its thread -----------------------------------------------------------------------

    def looked_up(self, peer: Peer, request: JitRequest, found: LookUp) -> None:
        """See ``Onlooker``."""
        del peer
        reason = found.answer.reason if isinstance(found.answer, Missing) else ""
        if reason or request.policy == "REDO":
            with self._lock:
                self._record.missed(reason or "redo")

    def enqueued(self, key: str, state: JobState, reason: str, *, background: bool) -> None:
        """See ``Onlooker``."""
        del key
        subject = subject_of(state.identity, state.asking.request, reason=reason, why=state.asking.why)
        with self._lock:
            self._record.enqueued(subject, now=state.submitted, unix=time.time(), background=background)

    def joined(self, key: str, asker: Asker, asking: Asking) -> None:
        """See ``Onlooker``."""
        whoever = who(asking.peer)
        with self._lock:
            self._record.joined(key, asker, whoever, now=time.monotonic(), background=asking.request.prewarm)

    def left(self, asker: Asker) -> None:
        """See ``Onlooker``."""
        with self._lock:
            self._record.left(asker, now=time.monotonic())

    def started(self, key: str, grant: Grant) -> None:
        """See ``Onlooker``."""
        with self._lock:
            self._record.started(key, cores=grant.cores, now=time.monotonic())

    def advanced(self, key: str, stage: Stage, now: float) -> None:
        """See ``Onlooker``."""
        with self._lock:
            self._record.entered(key, stage.name, stage.detail, now=now)

    def requeued(self, key: str, why: str, *, tried: bool) -> None:
        """See ``Onlooker``."""
        with self._lock:
            self._record.requeued(key, why, tried=tried, now=time.monotonic())

    def finished(self, key: str, end: Built | JitError | None) -> None:
        """See ``Onlooker``."""
        with self._lock:
            record = self._record.finished(key, ending(end), now=time.monotonic())
            if record is None or len(self._unwritten) >= UNWRITTEN:
                return
            self._unwritten.append(record)
        self._wake.set()

    def answered(self, asking: Asking, reply: Result | Failure, source: Source) -> None:
        """See ``Onlooker``."""
        answer = Answer(
            at=time.time(),
            key=reply.key,
            source=source,
            who=who(asking.peer),
            seconds=max(0.0, time.time() - asking.asked_at),
            model=asking.request.model_path,
            device=asking.request.device,
            reason=(reply.reason or reply.kind) if isinstance(reply, Failure) else reply.reason,
            cause=reply.message if isinstance(reply, Failure) else "",
        )
        with self._lock:
            self._record.answered(answer)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = self._next(time.time())
        while not self._ending.is_set():
            self._wake.wait(max(0.0, due - time.time()))
            self._wake.clear()
            self._write_jobs()
            now = time.time()
            if now >= due or due - now > COUNT_SECONDS:  # the clock may have been set
                self._write_counts(now)
                due = self._next(now)
        self._write_jobs()
        self._write_counts(time.time())

    def _next(self, now: float) -> float:
        """When counts are written next: what happened before the full hour is that hour's."""
        return min(now + COUNT_SECONDS, (now // HOUR + 1) * HOUR)

    def _write_jobs(self) -> None:
        with self._lock:
            records, self._unwritten = self._unwritten, []
        if records:
            self._try(lambda: self._history.add_jobs(records))

    def _write_counts(self, now: float) -> None:
        counts = self.counts()
        new = {name: count - self._written[name] for name, count in counts.items() if count > self._written[name]}
        begin, self._since, self._written = self._since, now, counts
        if new:
            # An instant earlier: what is written at the full hour belongs to the one that ends.
            self._try(lambda: self._history.add_counts(Counts(begin=begin, end=now - 0.001, counts=new)))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                logger.warning("the history in %s can't be written: %s", self._history.folder, error)
            self._failed = True
        except Exception:
            logger.exception("the history could not be written")
        else:
            self._failed = False
