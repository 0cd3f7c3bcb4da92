"""What happened, in memory and bounded: jobs under way, jobs that ended, the last answers. Pure: time comes in.

Times within a job are seconds after it was asked for, on a monotonic clock, so that a clock that is set changes no
duration; only the moment of the asking is a Unix time. What does not belong here: files (``history``), threads and
clocks (``recorder``), and hits that the server's thread answers, which are only counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Outcome = Literal["queued", "running", "compiled", "found", "failed", "cancelled", "withdrawn"]
"""``queued`` and ``running`` have not ended. ``found``: another process had published it. ``withdrawn``: it was still
queued when nobody waited any more, somebody cancelled it, or the daemon drained."""

Source = Literal["hit", "compiled", "joined", "stopgap", "refused"]

QUEUED = "queued"
"""The span before a job starts; it comes again where a compile is tried once more."""

SPANS, WAITERS, TEXT = 64, 64, 300
"""Bounds of one record: spans and waiters that it names, and the characters of one text in it."""

JOBS, ANSWERS = 256, 512
"""Jobs that ended and answers that are kept, at some 2 KB each."""

Asker = tuple[bytes, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who asked, as the kernel names it: ``pid`` 0 for another pid namespace, ``uid`` -1 where it is not known."""

    pid: int = 0
    uid: int = -1
    program: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is asked for. ``model`` is the path that the first asker named; ``reason`` is why it was no hit."""

    key: str
    model: str = ""
    device: str = ""
    toolchain: str = ""
    model_type: str = ""
    quantization: str = ""
    reason: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stage of a job: ``at`` and ``seconds`` after the job was asked for, and how long."""

    name: str
    at: float
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Somebody who waited for a job. ``outcome`` is ``waits``, ``served``, ``refused`` or ``left``."""

    who: Who
    at: float
    seconds: float = 0.0
    outcome: Literal["waits", "served", "refused", "left"] = "waits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Kernels of a compile: how many were compiled apart, how many of them were known, seconds of one core."""

    total: int = 0
    reused: int = 0
    saved: float = 0.0
    spent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ended.

    Attributes:
        outcome: What became of it.
        kind: Of the error, as in ``mlc_jit.errors``; empty for a library.
        reason: The error's own.
        cause: Its root-cause line.
        log: Path of the compiler's log.
        seconds: What the compiler took.
        peak_memory: Bytes.
        size: Of the library, in bytes.
        kernels: Compiled apart, and reused.
        degraded: What the compiler fell back from.
    """

    outcome: Outcome
    kind: str = ""
    reason: str = ""
    cause: str = ""
    log: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    size: int = 0
    kernels: Kernels = field(default_factory=Kernels)
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job, under way or ended.

    Attributes:
        subject: What it is about.
        asked: Unix time of the request that caused it.
        seconds: From there to its end, or until now.
        ending: How it ended; ``queued`` or ``running`` if it has not.
        spans: Its stages in order, waiting in the queue included.
        waiters: Who waited, whoever asked first at the beginning.
        more: How many further ones did.
        cores: What it might use; 0 if it never started.
        background: Nobody was in a hurry for it.
        retried: It ran out of memory and was tried once more.
    """

    subject: Subject
    asked: float
    seconds: float
    ending: Ending
    spans: tuple[Span, ...] = ()
    waiters: tuple[Wait, ...] = ()
    more: int = 0
    cores: int = 0
    background: bool = False
    retried: bool = False

    @property
    def queued(self) -> float:
        """Seconds that it waited in the queue."""
        return sum(span.seconds for span in self.spans if span.name == QUEUED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request got; those that the server's thread answers are only counted.

    Attributes:
        at: Unix time.
        source: ``hit``, ``compiled``, ``joined``, ``stopgap`` (upstream's own file) or ``refused``.
        seconds: From the request to the answer.
        reason: Why it was no hit, or why it was refused.
        cause: One line, for ``refused``.
    """

    at: float
    key: str
    source: Source
    who: Who
    seconds: float = 0.0
    model: str = ""
    device: str = ""
    reason: str = ""
    cause: str = ""


@dataclass(slots=True)
class _Live:
    subject: Subject
    asked: float
    began: float
    background: bool
    spans: list[Span] = field(default_factory=list)
    waiters: dict[Asker, Wait] = field(default_factory=dict)
    more: int = 0
    cores: int = 0
    retried: bool = False
    running: bool = False

    def enter(self, name: str, detail: str, now: float) -> None:
        at = _rounded(now - self.began)
        if self.spans:
            last = self.spans[-1]
            if last.name == name:
                return
            self.spans[-1] = dataclasses.replace(last, seconds=_rounded(at - last.at))
        if len(self.spans) < SPANS:
            self.spans.append(Span(name=name, at=at, detail=clipped(detail)))

    def seen(self, ending: Ending, now: float) -> JobRecord:
        """The job as it is; the last span and who still waits reach until now."""
        at = _rounded(now - self.began)
        spans = [*self.spans]
        if spans:
            spans[-1] = dataclasses.replace(spans[-1], seconds=_rounded(at - spans[-1].at))
        return JobRecord(
            subject=self.subject,
            asked=self.asked,
            seconds=at,
            ending=ending,
            spans=tuple(spans),
            waiters=tuple(self._until(wait, at, ending) for wait in self.waiters.values()),
            more=self.more,
            cores=self.cores,
            background=self.background,
            retried=self.retried,
        )

    def _until(self, wait: Wait, at: float, ending: Ending) -> Wait:
        if wait.outcome != "waits":
            return wait
        got: Literal["waits", "served", "refused"] = "waits"
        if ending.outcome not in ("queued", "running"):
            got = "served" if ending.outcome in ("compiled", "found") else "refused"
        return dataclasses.replace(wait, seconds=_rounded(at - wait.at), outcome=got)


class Record:
    """See the module's docstring. Used by one thread at a time.

    ``now`` is in monotonic seconds everywhere, ``unix`` a Unix time. A key that is not known is nothing to do: what is
    seen must never be in the way of what is done.
    """

    def __init__(self, *, jobs: int = JOBS, answers: int = ANSWERS) -> None:
        self._live: dict[str, _Live] = {}
        self._waits: dict[Asker, str] = {}
        self.ended: deque[JobRecord] = deque(maxlen=jobs)
        """The last jobs that ended, newest last."""
        self.answers: deque[Answer] = deque(maxlen=answers)
        """The last answers, newest last."""
        self.counts: Counter[str] = Counter()
        """How often what happened since the daemon began; see docs/seeing.md for the names."""

    def enqueued(self, subject: Subject, *, now: float, unix: float, background: bool) -> None:
        """A job was made for a key."""
        self._live[subject.key] = live = _Live(clean(subject), unix, now, background)
        live.enter(QUEUED, "", now)

    def joined(self, key: str, asker: Asker, who: Who, *, now: float, background: bool = False) -> None:
        """Somebody waits for the job, first or later; who does so already is nothing new."""
        live = self._live.get(key)
        if live is None or asker in live.waiters or self._waits.get(asker) == key:
            return
        self._waits[asker] = key
        live.background = live.background and background
        if len(live.waiters) < WAITERS:
            live.waiters[asker] = Wait(who=who, at=_rounded(now - live.began))
        else:
            live.more += 1

    def left(self, asker: Asker, *, now: float) -> None:
        """Somebody waits no longer."""
        live = self._live.get(self._waits.pop(asker, ""))
        wait = live.waiters.get(asker) if live is not None else None
        if live is not None and wait is not None:
            seconds = _rounded(now - live.began - wait.at)
            live.waiters[asker] = dataclasses.replace(wait, seconds=seconds, outcome="left")

    def started(self, key: str, *, cores: int, now: float) -> None:
        """The queue admitted the job; who knows no better stage sees it start."""
        live = self._live.get(key)
        if live is not None:
            live.cores, live.running = cores, True
            live.enter("start", "", now)

    def entered(self, key: str, stage: str, detail: str, *, now: float) -> None:
        """The job came to a stage."""
        live = self._live.get(key)
        if live is not None:
            live.enter(stage, detail, now)

    def requeued(self, key: str, why: str, *, tried: bool, now: float) -> None:
        """It waits for its turn again; ``tried``: its first try ran out of memory."""
        live = self._live.get(key)
        if live is not None:
            live.retried, live.running = live.retried or tried, False
            live.enter(QUEUED, why, now)

    def finished(self, key: str, ending: Ending, *, now: float) -> JobRecord | None:
        """The job ended; its record, if it was known."""
        live = self._live.pop(key, None)
        if live is None:
            return None
        for asker in [asker for asker, waited in self._waits.items() if waited == key]:
            del self._waits[asker]
        record = live.seen(dataclasses.replace(ending, cause=first_line(ending.cause)), now)
        self.ended.append(record)
        self.counts[f"jobs_{ending.outcome}"] += 1
        return record

    def answered(self, answer: Answer) -> None:
        """A request got its answer, the long way."""
        self.answers.append(dataclasses.replace(answer, cause=first_line(answer.cause), model=readable(answer.model)))
        self.counts[answer.source if answer.source != "refused" else f"refused_{answer.reason or 'other'}"] += 1

    def missed(self, reason: str) -> None:
        """A request was no hit."""
        self.counts[f"misses_{reason}"] += 1

    def jobs(self, now: float) -> Iterator[JobRecord]:
        """The jobs under way, as they are now."""
        for live in self._live.values():
            yield live.seen(Ending(outcome="running" if live.running else "queued"), now)


def clean(subject: Subject) -> Subject:
    """The subject with texts that can be written down."""
    return dataclasses.replace(subject, model=readable(subject.model), why=clipped(subject.why))


def clipped(text: str) -> str:
    """A text within its bound."""
    text = readable(text)
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


def first_line(text: str) -> str:
    """The first line that says something, within its bound."""
    return clipped(next((line.strip() for line in text.splitlines() if line.strip()), ""))


def readable(text: str) -> str:
    """A text without undecodable bytes: it is for people."""
    return text.encode("utf-8", "replace").decode()


def _rounded(seconds: float) -> float:
    return round(max(0.0, seconds), 4)
