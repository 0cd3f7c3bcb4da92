"""The plots, as SVG: horizontal places in percents of whatever width there is, heights and text in pixels.

So a plot fits a telephone and a wide screen alike, and its text is as large as the page's. What a shape is stands in
its title, which browsers show and screen readers say.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from mlc_jit.figures import duration
from mlc_jitd.observe.report.markup import Markup, el

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FEW_MINUTES, FEW_DAYS = 600, 4 * 86400
_BAR, _FOOT, _HEAD = 16, 22, 14


def segments(parts: Iterable[tuple[float, str, str]], whole: float, *, label: str) -> Markup:
    """One bar, from left to right.

    Args:
        parts: Size, class and title of each piece.
        whole: The size that fills the width.
        label: What it says, for who can't see it.
    """
    shapes = []
    at = 0.0
    for size, kind, title in parts:
        width = 100 * size / whole if whole > 0 else 0.0
        if width > 0:
            place = {"x": f"{at:.3f}%", "width": f"{width:.3f}%"}
            shapes.append(el("rect", el("title", title), y=0, height=_BAR, class_=kind, **place))
        at += width
    return el("svg", shapes, class_="bar", height=_BAR, role="img", aria_label=label)


def columns(
    bins: Sequence[tuple[float, Sequence[tuple[int, str, str]]]], *, span: int, label: str, height: int
) -> Markup:
    """Columns over time, one for each span.

    Args:
        bins: When it begins, and size, class and title of each piece of its column, from the bottom.
        span: Seconds of each.
        label: What it says, for who can't see it.
        height: Of the highest, in pixels.
    """
    top = nice(max((sum(size for size, _, _ in pieces) for _, pieces in bins), default=0))
    shapes = []
    width = 100 / max(1, len(bins))
    for number, (_, pieces) in enumerate(bins):
        foot = float(_HEAD + height)
        for size, kind, title in pieces:
            tall = height * size / top
            foot -= tall
            if size:
                place = {"x": f"{(number + 0.1) * width:.3f}%", "width": f"{0.8 * width:.3f}%"}
                shapes.append(el("rect", el("title", title), y=foot, height=max(tall, 1.0), class_=kind, **place))
    begin = bins[0][0] if bins else 0.0
    axes = [*_time_axis(begin, begin + span * max(1, len(bins)), height), *_heights(top, height, lambda n: f"{n:,.0f}")]
    return _plot([*_grid(height), *shapes, *axes], height, label)


def scatter(points: Sequence[tuple[float, float, str, str]], *, label: str, height: int) -> Markup:
    """Compiles over time, each a stem as high as it took.

    Args:
        points: Unix time, seconds, class and title; at least one.
        label: What it says, for who can't see it.
        height: Of the highest, in pixels.
    """
    top = nice_seconds(max(seconds for _, seconds, _, _ in points))
    begin, end = min(when for when, *_ in points), max(when for when, *_ in points)
    room = max(end - begin, 60.0) * 0.03
    begin, end = begin - room, end + room
    shapes = []
    floor = _HEAD + height
    for when, seconds, kind, title in points:
        x = f"{100 * (when - begin) / (end - begin):.3f}%"
        y = floor - height * seconds / top
        shapes.append(el("line", x1=x, x2=x, y1=floor, y2=y, class_=f"stem {kind}"))
        shapes.append(el("circle", el("title", title), cx=x, cy=y, r=4.5, class_=kind))
    axes = [*_time_axis(begin, end, height), *_heights(top, height, duration)]
    return _plot([*_grid(height), *shapes, *axes], height, label)


def _plot(shapes: Iterable[Markup], height: int, label: str) -> Markup:
    return el("svg", shapes, class_="plot", height=_HEAD + height + _FOOT, role="img", aria_label=label)


def _grid(height: int) -> list[Markup]:
    """Lines at no, half and full height."""
    places = [_HEAD + height * part for part in (0.0, 0.5, 1.0)]
    return [el("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid") for y in places]


def _heights(top: float, height: int, words: Callable[[float], str]) -> list[Markup]:
    """What half and full height mean."""
    return [
        el("text", words(top * part), x="0%", y=_HEAD + height * (1 - part) - 3, class_="tick") for part in (0.5, 1.0)
    ]


def _time_axis(begin: float, end: float, height: int) -> list[Markup]:
    """Times below a plot: at its ends and its middle, with as much of the date as tells them apart."""
    form = "%b %d %H:%M" if end - begin < FEW_DAYS else "%b %d"
    if time.localtime(begin)[:3] == time.localtime(end)[:3]:
        form = "%H:%M" if end - begin > FEW_MINUTES else "%H:%M:%S"
    places = (("0%", begin, "start"), ("50%", (begin + end) / 2, "middle"), ("100%", end, "end"))
    y = _HEAD + height + 16
    return [
        el("text", time.strftime(form, time.localtime(when)), x=x, y=y, text_anchor=anchor, class_="tick")
        for x, when, anchor in places
    ]


def nice(most: float) -> float:
    """A round and even count that is not less."""
    if most <= 2:  # noqa: PLR2004 - the half of it is a count, too
        return 2.0
    power = 10.0 ** math.floor(math.log10(most))
    found = next(step * power for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= most * (1 - 1e-9))
    return found + found % 2


def nice_seconds(most: float) -> float:
    """A time that is not less, and that is round for people, as its half is."""
    steps = (0.1, 0.2, 0.4, 1, 2, 4, 6, 10, 20, 30, 60, 120, 240, 360, 600, 1200, 1800, 3600, 7200)
    return next((float(step) for step in steps if step >= most), math.ceil(most / 7200) * 7200.0)
