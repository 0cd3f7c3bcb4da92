"""What looks and events mean for one folder: when to look next, and whether what it holds has changed. Pure.

Time comes in as a value, in seconds of a clock that never goes back.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlc_jitd.asks import GONE, UNSEEN
from mlc_jitd.watch.look import FRESH_SECONDS, TORN, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Container

    from mlc_jitd.watch.look import Look

QUIET_SECONDS = 0.3
"""A burst of events is over when nothing came for so long."""
BURST_SECONDS = 2.0
"""A burst that goes on for longer is looked into all the same."""
GONE_SECONDS = 1.0
"""What vanished is looked for once more after so long: editors and downloads remove before they rename."""
TORN_SECONDS = 1.0
TORN_TRIES = 10
"""What is no JSON yet is looked at so often in quick succession, then at the usual pace."""

Verdict = Literal["same", "seen", "changed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One folder.

    Attributes:
        config: What it holds, as far as was settled: a digest, ``GONE`` or ``UNSEEN``.
        due: When to look next.
        burst: When the events began that were not looked into yet; infinite when there are none.
        missing: When it was first found to be gone, while that is not settled; infinite when it is not missing.
        torn: How often in a row it was found torn.
    """

    config: str = UNSEEN
    due: float = 0.0
    burst: float = math.inf
    missing: float = math.inf
    torn: int = 0


def poked(state: State, now: float) -> State:
    """Something may have happened."""
    burst = min(state.burst, now)
    return dataclasses.replace(state, burst=burst, due=min(now + QUIET_SECONDS, burst + BURST_SECONDS))


def looked(state: State, found: Look, now: float, *, pace: float, known: Container[str]) -> tuple[State, Verdict]:
    """A look was taken.

    Args:
        state: What was known before.
        found: What it found.
        now: When it was taken.
        pace: Seconds until the next look, if nothing asks for it sooner.
        known: The configs that clients asked with: a folder that never held one of them is not the one they see.

    Returns:
        What is known now, and what that means: ``seen`` is the first sight of a config that is known.
    """
    after = dataclasses.replace(
        state,
        due=now + (min(pace, FRESH_SECONDS) if found.fresh else pace),
        burst=math.inf,
        missing=state.missing if found.config == GONE else math.inf,
        torn=state.torn + 1 if found.config == TORN else 0,
    )
    if found.config == UNREADABLE or (found.config == GONE and state.config in (GONE, UNSEEN)):
        return after, "same"
    if found.config == TORN:
        soon = now + TORN_SECONDS if after.torn <= TORN_TRIES else after.due
        return dataclasses.replace(after, due=min(after.due, soon)), "same"
    if found.config == GONE:
        missing = min(state.missing, now)
        if now < missing + GONE_SECONDS:
            return dataclasses.replace(after, missing=missing, due=missing + GONE_SECONDS), "same"
        return dataclasses.replace(after, missing=math.inf, config=GONE), "gone"
    if found.config == state.config:
        return after, "same"
    if state.config == UNSEEN:
        return (dataclasses.replace(after, config=found.config), "seen") if found.config in known else (after, "same")
    return dataclasses.replace(after, config=found.config), "changed"
