"""How figures are written for people: sizes and times, the same everywhere."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes for people: ``3.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - a thousand is what k means
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``5 d 3 h``."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"  # noqa: PLR2004 - where tenths begin to be noise
    small, a, large, b = next(unit for unit in _UNITS if whole < unit[2] * unit[4] or unit is _UNITS[-1])[:4]
    rest = whole % large // small
    return f"{whole // large} {b} {rest} {a}" if rest else f"{whole // large} {b}"


_UNITS = ((1, "s", 60, "min", 60), (60, "min", 3600, "h", 24), (3600, "h", 86400, "d", 0))
"""Seconds and name of a small and a large unit, and how many of the large one make the next."""
