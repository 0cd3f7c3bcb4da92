"""What the plots show, worked out from records, counts and the cache's entries. Pure: time comes in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from mlc_jitd.observe.history import HOUR
from mlc_jitd.observe.record import QUEUED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlc_jitd.observe.record import JobRecord

STAGES, SHARE = 8, 0.005
"""Stages with a colour of their own, and the least part of a toolchain's time that gets one; the others share one."""

OTHER = "other"

LAST = 30
"""Compiles that are shown stage by stage."""

FAILURES = 20
MODELS = 15

FEWEST, HOURS = 24, 72
"""So many hours are shown at least, and up to so many one by one; more are shown as days."""

DAY = 24 * HOUR
DAYS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One library of the cache; ``seconds`` is what its compile took."""

    model: str
    toolchain: str
    size: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """What was answered from one Unix time on, for an hour or a day."""

    begin: int
    counts: Counter[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Where the compile time of one toolchain went: seconds by stage, over so many compiles."""

    toolchain: str
    compiles: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the cache holds of one model: libraries and bytes by toolchain."""

    model: str
    libraries: int
    bytes: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(self.bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the page shows.

    Attributes:
        title: Of what: host and cache.
        made: Unix time.
        jobs: Every compile that ended, oldest first.
        outcomes: How often each.
        stages: Those with a colour of their own, by their share of a toolchain's time; the most first.
        spent: By toolchain, the most time first.
        answers: In spans of equal length without gaps, oldest first.
        span: Their length in seconds.
        counts: All answers together.
        held: The largest first; the last one may be all others.
        toolchains: Of the cache, in the order of what they hold.
    """

    title: str
    made: float
    jobs: tuple[JobRecord, ...] = ()
    outcomes: Counter[str] = field(default_factory=Counter)
    stages: tuple[str, ...] = ()
    spent: tuple[Spent, ...] = ()
    answers: tuple[Bin, ...] = ()
    span: int = HOUR
    counts: Counter[str] = field(default_factory=Counter)
    held: tuple[Held, ...] = ()
    toolchains: tuple[str, ...] = ()
    entries: int = 0

    @property
    def last(self) -> tuple[JobRecord, ...]:
        """The last compiles, newest first."""
        return self.jobs[-LAST:][::-1]

    @property
    def failures(self) -> tuple[JobRecord, ...]:
        """The last ones that failed, newest first."""
        return tuple(job for job in self.jobs if job.ending.outcome == "failed")[-FAILURES:][::-1]

    @property
    def hit_ratio(self) -> float | None:
        """Which part of what got a library was a hit or joined a compile; ``None`` where nothing was answered."""
        served = sum(self.counts[name] for name in ("hit", "joined", "compiled", "stopgap"))
        return (self.counts["hit"] + self.counts["joined"]) / served if served else None

    @property
    def saved(self) -> float:
        """Seconds of one core that known kernels spared."""
        return sum(job.ending.kernels.saved for job in self.jobs)


def facts(
    jobs: Iterable[JobRecord],
    hours: Mapping[int, Counter[str]],
    entries: Iterable[Entry],
    *,
    title: str,
    now: float,
) -> Facts:
    """Work it out.

    Args:
        jobs: That ended.
        hours: Counts by the Unix time at which their hour began.
        entries: Of the cache.
        title: Of what.
        now: Unix time.
    """
    ended = tuple(sorted(jobs, key=lambda job: job.asked))
    spent = _spent(ended)
    answers, span = _answers(hours, now)
    counts: Counter[str] = Counter()
    for counted in hours.values():
        counts.update(counted)
    known = tuple(entries)
    by_toolchain: Counter[str] = Counter()
    for entry in known:
        by_toolchain[entry.toolchain] += entry.size
    return Facts(
        title=title,
        made=now,
        jobs=ended,
        outcomes=Counter(job.ending.outcome for job in ended),
        stages=_named(spent),
        spent=spent,
        answers=answers,
        span=span,
        counts=counts,
        held=_held(known),
        toolchains=tuple(name for name, _ in by_toolchain.most_common()),
        entries=len(known),
    )


def _spent(jobs: Sequence[JobRecord]) -> tuple[Spent, ...]:
    found: dict[str, dict[str, float]] = {}
    compiles: Counter[str] = Counter()
    for job in jobs:
        if job.ending.outcome != "compiled":
            continue
        stages = found.setdefault(job.subject.toolchain, {})
        compiles[job.subject.toolchain] += 1
        for span in job.spans:
            if span.name != QUEUED:
                stages[span.name] = stages.get(span.name, 0.0) + span.seconds
    rows = [Spent(toolchain=name, compiles=compiles[name], seconds=each) for name, each in found.items()]
    return tuple(sorted(rows, key=lambda row: -sum(row.seconds.values())))


def _named(spent: Iterable[Spent]) -> tuple[str, ...]:
    """The stages that get a colour: those with the largest part of the time of any one toolchain."""
    parts: dict[str, float] = {}
    for each in spent:
        total = sum(each.seconds.values()) or 1.0
        for stage, seconds in each.seconds.items():
            parts[stage] = max(parts.get(stage, 0.0), seconds / total)
    return tuple(sorted((name for name in parts if parts[name] >= SHARE), key=lambda name: -parts[name])[:STAGES])


def _answers(hours: Mapping[int, Counter[str]], now: float) -> tuple[tuple[Bin, ...], int]:
    if not hours:
        return (), HOUR
    last = max(int(now) // HOUR * HOUR, *hours)
    first = min(hours)
    span = HOUR if last - first < HOURS * HOUR else DAY
    end = last // span * span
    begin = max(first // span * span, end - (DAYS - 1) * span)
    begin = max(min(begin, end - (FEWEST - 1) * HOUR), 0) if span == HOUR else begin
    bins: dict[int, Counter[str]] = {start: Counter() for start in range(begin, end + 1, span)}
    for hour, counted in hours.items():
        if hour // span * span in bins:
            bins[hour // span * span].update(counted)
    return tuple(Bin(begin=start, counts=each) for start, each in bins.items()), span


def _held(entries: Sequence[Entry]) -> tuple[Held, ...]:
    models: dict[str, Counter[str]] = {}
    libraries: Counter[str] = Counter()
    for entry in entries:
        name = PurePath(entry.model).name or "?"
        models.setdefault(name, Counter())[entry.toolchain] += entry.size
        libraries[name] += 1
    rows = [Held(model=name, libraries=libraries[name], bytes=dict(each)) for name, each in models.items()]
    rows.sort(key=lambda row: -row.size)
    if len(rows) > MODELS:
        rest: Counter[str] = Counter()
        for row in rows[MODELS - 1 :]:
            rest.update(row.bytes)
        count = sum(row.libraries for row in rows[MODELS - 1 :])
        name = f"{len(rows) - MODELS + 1} others"
        rows = [*rows[: MODELS - 1], Held(model=name, libraries=count, bytes=dict(rest))]
    return tuple(rows)
