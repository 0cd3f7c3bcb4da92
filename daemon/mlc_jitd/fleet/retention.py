"""What of a bucket goes: libraries that were not used for long, and bytes that belong to none. Pure.

What does not belong here: the bucket, and a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlc_jitd.fleet.catalogue import Catalogue, Row

DAY = 86_400.0
GRACE = 2 * DAY
"""How long bytes without a library are left alone: their text may be about to be written."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How long what is kept; days, 0 for ever.

    Attributes:
        unused: After the last use that a host told of, or the writing.
        age: After the writing, used or not.
    """

    unused: float = 90.0
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a library: kept or not, why, and when it was last used (Unix time)."""

    row: Row
    keep: bool
    why: str
    used: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes.

    Attributes:
        verdicts: On each library.
        blobs: The names of blobs that no kept library has, long enough.
        bytes: What these take.
    """

    verdicts: tuple[Verdict, ...]
    blobs: tuple[str, ...]
    bytes: int


def plan(found: Catalogue, uses: dict[str, float], rules: Rules, now: float) -> Plan:
    """Decide.

    Args:
        found: What there is.
        uses: When each key was last used, as hosts told (Unix time).
        rules: How long what is kept.
        now: Unix time.
    """
    verdicts = tuple(_judged(row, max(row.meta.modified, uses.get(row.key, 0.0)), rules, now) for row in found.rows)
    kept = {each.row.offer.blob for each in verdicts if each.keep and each.row.offer is not None}
    freed = {each.row.offer.blob for each in verdicts if not each.keep and each.row.offer is not None} - kept
    gone = [
        meta
        for blob, meta in sorted(found.blobs.items())
        if blob in freed or (blob not in kept and now - meta.modified > GRACE and not _unreadable(found))
    ]
    return Plan(verdicts, tuple(each.name for each in gone), sum(each.size for each in gone))


def _unreadable(found: Catalogue) -> bool:
    """Whether somebody else's texts are there, whose blobs are not known here: then strays may be theirs."""
    return any(row.offer is None for row in found.rows)


def _judged(row: Row, used: float, rules: Rules, now: float) -> Verdict:
    idle, old = (now - used) / DAY, (now - row.meta.modified) / DAY
    if row.offer is None:
        return Verdict(row, keep=True, why=f"not judged: {row.why}", used=used)
    if rules.age and old > rules.age:
        return Verdict(row, keep=False, why=f"written {old:.0f} days ago; {rules.age:g} are kept", used=used)
    if rules.unused and idle > rules.unused:
        return Verdict(row, keep=False, why=f"unused for {idle:.0f} days; {rules.unused:g} are kept", used=used)
    return Verdict(row, keep=True, why=f"used within the last {max(1, round(idle + 0.5))} days", used=used)
