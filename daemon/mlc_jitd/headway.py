"""How far a compile is: seconds per stage measured, and compared with what its like took. Pure: time comes in.

The daemon knows when a stage begins, from the compiler's own log, and how long the stages of an earlier compile like
this one took. From that follow a fraction and the seconds that are left. Where nothing like it is known, or a compile
has outrun all that is known, the answer is ``None`` and no guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

END = "publish"
"""The stage after the compiler's last one."""

MOST = 0.99
"""The fraction before the end: only the library itself is the end."""

FASTEST, SLOWEST = 0.5, 4.0
"""Bounds of how much faster or slower than its like a compile is believed to go on."""

TELLING = 0.05
"""The part of a compile after which its pace so far says something about the rest."""


class Stopwatch:
    """Measures the stages of one compile."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._since = 0.0

    def enter(self, stage: str, now: float) -> None:
        """A stage begins, and the one before it ends; one that comes again is added up."""
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + max(0.0, now - self._since)
        self._stage, self._since = stage, now

    def stop(self, now: float) -> dict[str, float]:
        """Seconds per stage, in the order in which they came."""
        self.enter("", now)
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """How far a compile is: ``fraction`` in whole percents, ``left`` in whole seconds; ``None`` where unknown."""

    fraction: float | None = None
    left: float | None = None


class Headway:
    """One compile against the record of its like.

    Args:
        stages: Seconds per stage of that, in order; may be empty.
        seconds: What it took in all; ``None`` where nothing like it is known.
    """

    def __init__(self, stages: Mapping[str, float], seconds: float | None) -> None:
        self._spans = dict(stages)
        self._before: dict[str, float] = {}
        total = 0.0
        for stage, span in self._spans.items():
            self._before[stage] = total
            total += span
        self._total = total or seconds or 0.0
        self.restart()

    def restart(self) -> None:
        """Nothing has begun: it waits, or waits again."""
        self._stage = ""
        self._since = 0.0
        self._began: float | None = None
        self._reached = 0.0
        self._shown = 0.0

    def enter(self, stage: str, now: float) -> None:
        """A stage of the compile begins."""
        self._reached = max(self._reached, self._before.get(stage, self._position(now)))
        self._stage, self._since = stage, now
        if self._began is None:
            self._began = now

    def at(self, now: float) -> Place:
        """How far it is now; the fraction never goes back."""
        if self._began is None or not self._total:
            return Place()
        position = self._reached = self._position(now)
        self._shown = max(self._shown, min(MOST, math.floor(position / self._total * 100) / 100))
        if self._stage == END:
            self._shown = MOST
            return Place(MOST)
        ahead = self._total - position
        if ahead <= 0:
            return Place(self._shown)  # it takes longer than its like did, and nobody knows how much
        pace = 1.0
        if position >= TELLING * self._total:
            pace = min(SLOWEST, max(FASTEST, (now - self._began) / position))
        return Place(self._shown, float(math.ceil(ahead * pace)))

    def _position(self, now: float) -> float:
        """Seconds of the like's compile that lie behind this one."""
        if self._began is None:
            return 0.0
        if not self._spans:
            return min(self._total, now - self._began)
        span = self._spans.get(self._stage)
        if span is None:
            return self._reached  # a stage that its like did not have
        return max(self._reached, self._before[self._stage] + min(span, now - self._since))
