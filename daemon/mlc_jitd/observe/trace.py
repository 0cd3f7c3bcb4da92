"""The record as a trace for Perfetto and its like: the JSON form of the trace event format. Pure.

Both draw what lies on one thread as a stack, and so demand that it nests. Jobs and waits overlap freely; so each gets
the first lane in which nothing else is just then, and a lane is a thread:

    process 1, compiles    a slice for each try of a job, and in it one for each stage
    process 2, queue       a slice for each time that a job waits for its turn
    process 3, clients     a slice for each wait, with an arrow to the job; counters of what was answered

Times are Unix times in whole microseconds, so that traces of several hosts can be laid over each other. Source: the
format's definition by the Chromium authors (phases X, i, M, C, s and f), and Perfetto's notes on what it takes of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mlc_jitd.observe.record import QUEUED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlc_jitd.observe.history import Counts
    from mlc_jitd.observe.record import JobRecord, Span

Event = dict[str, Any]

COMPILES, QUEUE, CLIENTS = 1, 2, 3
_PROCESSES = {COMPILES: "compiles", QUEUE: "queue", CLIENTS: "clients"}
_LANES = {COMPILES: "slot", QUEUE: "waiting", CLIENTS: "client"}

_MICRO = 1_000_000


def trace(jobs: Iterable[JobRecord], counts: Iterable[Counts] = (), *, about: dict[str, str] | None = None) -> Event:
    """A whole trace file.

    Args:
        jobs: Under way or ended, in any order.
        counts: How often what was answered.
        about: Said of the file as a whole: version, host, cache.
    """
    ordered = sorted(jobs, key=lambda job: job.asked)
    lanes = {process: _Lanes(process) for process in _PROCESSES}
    events: list[Event] = []
    for number, job in enumerate(ordered, 1):
        events += _job(job, number, lanes)
    events += _load(ordered)
    if ordered:
        events += _answered(counts, ordered[0].asked)
    names = [event for each in lanes.values() for event in each.metadata()]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms", "otherData": dict(about or {})}


class _Lanes:
    """The threads of one process of the trace, as many as overlap."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._free: list[int] = []
        """When each lane is free again."""

    def take(self, begin: int, end: int) -> int:
        for lane, free in enumerate(self._free):
            if free <= begin:
                self._free[lane] = end
                return lane + 1
        self._free.append(end)
        return len(self._free)

    def metadata(self) -> list[Event]:
        process = {"ph": "M", "pid": self._process, "tid": 0, "ts": 0}
        found: list[Event] = [
            {**process, "name": "process_name", "args": {"name": _PROCESSES[self._process]}},
            {**process, "name": "process_sort_index", "args": {"sort_index": self._process}},
        ]
        for lane in range(1, len(self._free) + 1):
            thread = {**process, "tid": lane}
            found += [
                {**thread, "name": "thread_name", "args": {"name": f"{_LANES[self._process]} {lane}"}},
                {**thread, "name": "thread_sort_index", "args": {"sort_index": lane}},
            ]
        return found


@dataclass(frozen=True, slots=True)
class _Try:
    """A stretch of a job in which it ran, or waited for its turn."""

    begin: int
    end: int
    lane: int
    queued: bool


def _job(job: JobRecord, number: int, lanes: dict[int, _Lanes]) -> list[Event]:
    name = label(job)
    events: list[Event] = []
    tries: list[_Try] = []
    for queued, group in itertools.groupby(job.spans, key=lambda span: span.name == QUEUED):
        spans = list(group)
        begin, end = _at(job, spans[0].at), _at(job, spans[-1].at + spans[-1].seconds)
        process = QUEUE if queued else COMPILES
        lane = lanes[process].take(begin, end)
        tries.append(_Try(begin, end, lane, queued))
        if not queued or end > begin:
            slice_ = _slice(process, lane, begin, end)
            events.append({**slice_, "name": name, "cat": "queue" if queued else "job", "args": _facts(job)})
        if not queued:
            events += [{**each, "pid": process, "tid": lane} for each in _stages(job, spans, end)]
    return [*events, *_waits(job, number, tries, lanes[CLIENTS])]


def _stages(job: JobRecord, spans: Sequence[Span], end: int) -> list[Event]:
    """One slice for each stage; where one begins the one before it has ended, to the microsecond."""
    begins = [*(_at(job, span.at) for span in spans), end]
    return [
        {
            **_moment(begin, following),
            "name": span.name,
            "cat": "stage",
            "args": {"detail": span.detail} if span.detail else {},
        }
        for span, (begin, following) in zip(spans, itertools.pairwise(begins), strict=True)
    ]


def _waits(job: JobRecord, number: int, tries: Sequence[_Try], lanes: _Lanes) -> list[Event]:
    events: list[Event] = []
    for index, wait in enumerate(job.waiters):
        begin, end = _at(job, wait.at), _at(job, wait.at + wait.seconds)
        lane = lanes.take(begin, end)
        who = wait.who.program or "client"
        events.append(
            {
                **_slice(CLIENTS, lane, begin, end),
                "name": f"{who} waits for {label(job)}",
                "cat": "wait",
                "args": {"pid": wait.who.pid, "uid": wait.who.uid, "outcome": wait.outcome, "key": job.subject.key},
            }
        )
        run = next((each for each in tries if not each.queued and each.end > begin), None)
        if run is not None and end > max(begin, run.begin):
            arrow = {"name": "waits for", "cat": "wait", "id": f"{number}.{index}"}
            events += [
                {**arrow, "ph": "s", "pid": CLIENTS, "tid": lane, "ts": begin},
                {**arrow, "ph": "f", "bp": "e", "pid": COMPILES, "tid": run.lane, "ts": max(begin, run.begin)},
            ]
    return events


def _load(jobs: Sequence[JobRecord]) -> list[Event]:
    """How many jobs run and how many wait, whenever that changes."""
    steps: dict[int, list[int]] = {}
    for job in jobs:
        for span in job.spans:
            which = 1 if span.name == QUEUED else 0
            steps.setdefault(_at(job, span.at), [0, 0])[which] += 1
            steps.setdefault(_at(job, span.at + span.seconds), [0, 0])[which] -= 1
    running = queued = 0
    events: list[Event] = []
    for moment in sorted(moment for moment, step in steps.items() if any(step)):
        running, queued = running + steps[moment][0], queued + steps[moment][1]
        load = {"running": running, "queued": queued}
        events.append({"ph": "C", "pid": COMPILES, "tid": 0, "ts": moment, "name": "jobs", "args": load})
    return events


def _answered(counts: Iterable[Counts], since: float) -> list[Event]:
    return [
        {
            "ph": "C",
            "pid": CLIENTS,
            "tid": 0,
            "ts": int(each.end * _MICRO),
            "name": "answers",
            "args": {name: each.counts.get(name, 0) for name in ("hit", "compiled", "joined")},
        }
        for each in counts
        if each.end >= since
    ]


def label(job: JobRecord) -> str:
    """A job in a few words."""
    subject = job.subject
    name = PurePath(subject.model).name or subject.key[:12]
    return f"{name} ({subject.device})" if subject.device not in ("", "auto") else name


def _facts(job: JobRecord) -> dict[str, Any]:
    ending, kernels, subject = job.ending, job.ending.kernels, job.subject
    told = {
        "key": subject.key,
        "model": subject.model,
        "toolchain": subject.toolchain,
        "miss": subject.reason,
        "why": subject.why,
        "outcome": ending.outcome,
        "cause": ending.cause,
        "log": ending.log,
        "cores": job.cores,
        "peak_memory": ending.peak_memory,
        "library_bytes": ending.size,
        "kernels": kernels.total,
        "kernels_reused": kernels.reused,
        "kernel_seconds_saved": kernels.saved,
        "kernel_seconds_spent": kernels.spent,
        "degraded": ", ".join(ending.degraded),
        "background": job.background,
        "retried": job.retried,
    }
    return {name: value for name, value in told.items() if value}


def _slice(process: int, lane: int, begin: int, end: int) -> Event:
    return {**_moment(begin, end), "pid": process, "tid": lane}


def _moment(begin: int, end: int) -> Event:
    """A slice; an instant where it has no length, since viewers nest such slices wrongly."""
    return {"ph": "X", "ts": begin, "dur": end - begin} if end > begin else {"ph": "i", "s": "t", "ts": begin}


def _at(job: JobRecord, seconds: float) -> int:
    """A moment of a job as Unix time in microseconds."""
    return int((job.asked + seconds) * _MICRO)
