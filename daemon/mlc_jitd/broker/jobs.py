"""A compile that somebody asked for, as the broker keeps it: who waits, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .instructions import Asker, Step

JobState = Literal["queued", "running", "cancelling"]

LIVE: frozenset[JobState] = frozenset({"queued", "running"})
"""States in which a job can still be joined."""

STAGES_KEPT = 32
"""Stages of a job that a joiner is told; a compiler has some 15."""


@dataclass(slots=True)
class Job:
    """One compile that somebody asked for. Only the broker changes it."""

    key: str
    state: JobState
    redo: bool
    reason: str
    interactive: bool
    asked_at: float
    waiters: dict[Asker, bool] = field(default_factory=dict)
    """Who waits, and whether it is the one that caused the job (its source is ``compiled``, the others' ``joined``)."""
    step: Step | None = None
    """The latest."""
    history: dict[str, Step] = field(default_factory=dict)
    """The last step of each stage so far, in their order, at the time when the stage began."""

    def record(self, step: Step) -> None:
        """Take in the next step."""
        self.step = step
        began = self.history.get(step.stage)
        if began is None or next(reversed(self.history)) != step.stage:
            self.history.pop(step.stage, None)  # it came before, and comes again
            self.history[step.stage] = step
            for oldest in list(self.history)[:-STAGES_KEPT]:
                del self.history[oldest]
        else:
            self.history[step.stage] = replace(step, at=began.at)

    def steps(self) -> list[Step]:
        """What somebody who comes now has missed, and then where it is."""
        return [] if self.step is None else [*list(self.history.values())[:-1], self.step]

    def lead(self) -> Asker:
        """Who caused the job, or the first of those who still wait if that one left before it was enqueued."""
        for asker, leads in self.waiters.items():
            if leads:
                return asker
        asker = next(iter(self.waiters))
        self.waiters[asker] = True
        return asker
