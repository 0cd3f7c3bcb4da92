"""How the progress of one compile looks in a line of a given width. Pure: no terminal, no clock.

What gives way as it gets narrower, in this order: the end of the detail, the length of bar and label, one of the two
times, the bar, the stage. Percent and time stay.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlc_jit.messages import Progress

LEAST_WIDTH = 20
ROOMY, WIDE = 60, 100
"""Columns from which both times fit, and from which bar and label may be long."""

PULSE = 3
"""Length of what moves in a bar where nobody knows how far it is."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What a terminal can show."""

    full: str = "━"
    empty: str = "─"
    cut: str = "…"

    @classmethod
    def of(cls, encoding: str | None) -> Glyphs:
        """Those that an encoding has."""
        best = cls()
        try:
            f"{best.full}{best.empty}{best.cut}".encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls("#", "-", "~")
        return best


@dataclass(slots=True)
class Bar:
    """One compile as it is shown.

    Attributes:
        heard: When ``progress`` came, on the clock of ``line``'s ``now``.
        ended: How it ended, in a word; empty while it goes on.
    """

    label: str
    progress: Progress | None = None
    heard: float = 0.0
    ended: str = ""

    def elapsed(self, now: float) -> float:
        """Seconds since it was first asked for; at its end, what it took."""
        if self.progress is None:
            return 0.0
        return self.progress.elapsed + (0.0 if self.ended else max(0.0, now - self.heard))

    def left(self, now: float) -> float | None:
        """Seconds until its end, where they are known."""
        if self.progress is None or self.progress.left is None or self.ended:
            return None
        return max(0.0, self.progress.left - max(0.0, now - self.heard))

    def fraction(self) -> float | None:
        """0 to 1, ``None`` where unknown."""
        if self.ended:
            return 1.0 if self.ended == "done" else None
        return None if self.progress is None else self.progress.fraction


def line(bar: Bar, width: int, now: float, *, label_width: int | None = None, glyphs: Glyphs | None = None) -> str:
    """A line for a terminal of ``width`` columns; it leaves the last one free, where some terminals wrap.

    Args:
        bar: What to show.
        width: Columns, at least ``LEAST_WIDTH``.
        now: The time, on the clock of ``Bar.heard``.
        label_width: Columns of the widest label where several bars stand below each other.
        glyphs: What the terminal can show.
    """
    glyphs = glyphs or Glyphs()
    room = max(LEAST_WIDTH, width) - 1
    label = plain(bar.label)
    columns = max(4, min(cells(label) if label_width is None else label_width, _label_limit(room)))
    parts = [pad(cut(label, columns, glyphs), columns)]
    fraction = bar.fraction()
    known = fraction is not None
    if _compiles(bar):  # else there is nothing to measure, and its columns are good for words
        if length := _bar_length(room):
            parts.append(_bar(fraction, length, bar.elapsed(now), glyphs))
        if fraction is not None:
            parts.append(f"{fraction:4.0%}")
        elif room >= ROOMY:
            parts.append("    ")
    times = _times(bar, now, both=room >= ROOMY)
    gap = "  " if room >= ROOMY else " "
    rest = room - cells(gap.join(parts)) - len(gap) - (len(gap) + cells(times) if times else 0)
    if rest >= 4 or not known:  # noqa: PLR2004 - fewer columns say nothing
        parts.append(pad(cut(_what(bar), max(0, rest), glyphs), max(0, rest)))
    if times:
        parts.append(times)
    return cut(gap.join(parts), room, glyphs)


def text(progress: Progress) -> str:
    """A stage and its detail."""
    return plain(f"{progress.stage}: {progress.detail}" if progress.detail else progress.stage)


def clock(seconds: float) -> str:
    """``0:42``, ``3:05``, ``1:02:10``."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def plain(text: str) -> str:
    """The text with nothing in it that a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in text)


def cells(text: str) -> int:
    """Columns that a text takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_cells(each) for each in text)


def cut(text: str, columns: int, glyphs: Glyphs) -> str:
    """The text, or its beginning and a sign that something is missing."""
    if cells(text) <= columns:
        return text
    kept, used = "", cells(glyphs.cut)
    for each in text:
        used += _cells(each)
        if used > columns:
            break
        kept += each
    return kept.rstrip() + glyphs.cut if columns > 0 else ""


def pad(text: str, columns: int) -> str:
    """The text, filled up with blanks."""
    return text + " " * (columns - cells(text))


def _cells(each: str) -> int:
    if unicodedata.combining(each):
        return 0
    return 2 if unicodedata.east_asian_width(each) in "WF" else 1


def _compiles(bar: Bar) -> bool:
    if bar.ended:
        return bar.ended == "done"
    return bar.progress is not None and bar.progress.stage != "queued"


def _label_limit(room: int) -> int:
    return 32 if room >= WIDE else 18 if room >= ROOMY else max(7, room // 3)


def _bar_length(room: int) -> int:
    if room >= WIDE:
        return min(40, room // 5)
    return room // 7 if room >= 34 else 0  # noqa: PLR2004 - narrower, percent says it


def _bar(fraction: float | None, length: int, elapsed: float, glyphs: Glyphs) -> str:
    if fraction is not None:
        full = int(fraction * length)
        return glyphs.full * full + glyphs.empty * (length - full)
    way = max(1, length - PULSE)
    at = int(elapsed * 4) % (2 * way)
    at = min(at, 2 * way - at)
    return (glyphs.empty * at + glyphs.full * PULSE + glyphs.empty * length)[:length]


def _what(bar: Bar) -> str:
    if bar.ended:
        return bar.ended
    return "" if bar.progress is None else text(bar.progress)


def _times(bar: Bar, now: float, *, both: bool) -> str:
    elapsed, left = clock(bar.elapsed(now)), bar.left(now)
    if both:
        return f"{elapsed:>5}" + (f" {clock(left):>6} left" if left is not None else " " * 12)
    return elapsed if left is None else f"-{clock(left)}"
