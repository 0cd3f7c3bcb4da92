"""Counts and measures what the engine does, for metrics.

Its methods are called in the engine's thread: quick, no files. Where metrics are off there is none of it.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jit.messages import Failure
from mlc_jitd.engine import Onlooker
from mlc_jitd.observe.ends import ending

if TYPE_CHECKING:
    from mlc_jit.errors import JitError
    from mlc_jit.messages import Result
    from mlc_jitd.engine import Asking, JobState
    from mlc_jitd.engine.onlookers import Source
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.work import Built

BOUNDS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0)
"""Seconds: from a look-up to the longest compiles."""


@dataclass(slots=True)
class Histogram:
    """How many values were at most how large; the last bucket has no bound."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.buckets[bisect.bisect_left(BOUNDS, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(list(self.buckets), self.sum)


class Meter(Onlooker):
    """See the module's docstring. ``read`` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._jobs: Counter[str] = Counter()
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self._queued: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def answered(self, asking: Asking, reply: Result | Failure, source: Source) -> None:
        """See ``Onlooker``."""
        reason = (reply.reason or reply.kind) if isinstance(reply, Failure) else reply.reason
        with self._lock:
            self._requests[source, reason] += 1
            self._add("request_seconds", time.time() - asking.asked_at, source)

    def enqueued(self, key: str, state: JobState, reason: str, *, background: bool) -> None:  # noqa: ARG002
        """See ``Onlooker``."""
        self._queued[key] = time.monotonic()

    def started(self, key: str, grant: Grant) -> None:  # noqa: ARG002
        """See ``Onlooker``."""
        now = time.monotonic()
        self._started[key] = now
        with self._lock:
            self._add("queue_seconds", now - self._queued.pop(key, now))

    def requeued(self, key: str, why: str, *, tried: bool) -> None:  # noqa: ARG002
        """See ``Onlooker``."""
        self._queued[key] = time.monotonic()
        self._started.pop(key, None)

    def finished(self, key: str, end: Built | JitError | None) -> None:
        """See ``Onlooker``."""
        self._queued.pop(key, None)
        began, outcome = self._started.pop(key, None), ending(end).outcome
        with self._lock:
            self._jobs[outcome] += 1
            if began is not None:
                self._add("job_seconds", time.monotonic() - began, outcome)

    def read(self) -> tuple[Counter[tuple[str, str]], Counter[str], dict[str, dict[tuple[str, ...], Histogram]]]:
        """Answers by outcome and reason, ended jobs by outcome, histograms by name and label values."""
        with self._lock:
            histograms = {
                name: {labels: each.copy() for labels, each in found.items()}
                for name, found in self._histograms.items()
            }
            return Counter(self._requests), Counter(self._jobs), histograms

    def _add(self, name: str, seconds: float, *labels: str) -> None:
        found = self._histograms.setdefault(name, {})
        found.setdefault(labels, Histogram()).add(max(0.0, seconds))
