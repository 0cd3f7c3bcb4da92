"""How ``mlc-jit top`` looks. Pure: one answer of the daemon in, lines out, for a terminal of any size."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.bars import Bar, Glyphs, cells, clock, cut, line, pad, plain
from mlc_jit.cli import screens
from mlc_jit.cli.screens import counted
from mlc_jit.figures import duration, size

if TYPE_CHECKING:
    from mlc_jit.errors import DaemonUnavailableError

WIDE = 100
"""Columns from which the rarer facts have room."""

WORDS = {
    "compiled": "compiled",
    "found": "found",
    "failed": "FAILED",
    "cancelled": "cancelled",
    "withdrawn": "withdrawn",
    "hit": "hit",
    "stopgap": "stopgap",
    "refused": "refused",
}


def screen(
    top: m.Top,
    *,
    now: float,
    width: int | None,
    height: int | None,
    glyphs: Glyphs | None = None,
    trouble: str = "",
) -> list[str]:
    """The lines of the screen.

    Args:
        top: What the daemon said.
        now: When it did, as a Unix time.
        width: Columns; ``None`` where the text goes elsewhere than to a terminal.
        height: Lines, or ``None`` for as many as it takes. Jobs come first, then what ended lately.
        glyphs: What the terminal can show.
        trouble: Why what is shown is out of date.
    """
    glyphs = glyphs or screens.glyphs()
    columns = width or 160
    state = "draining" if top.draining else "serving"
    title = f"mlc-jitd {top.version}  pid {top.pid}  {state} for {duration(top.uptime)}"
    lines = [_ends(title, trouble or time.strftime("%H:%M:%S", time.localtime(now)), columns, glyphs), *_facts(top)]
    lines += ["", *_jobs(top, columns, glyphs)]
    room = None if height is None else height - len(lines) - 2
    if room is not None and room < 0:
        lines = _shortened(lines, height or 0)
    elif top.recent:
        lines += ["", "LATELY", *_recent(top.recent[:room], columns, glyphs)]
    return [cut(each, columns, glyphs).rstrip() for each in lines]


def away(error: DaemonUnavailableError, last: m.Top | None) -> str:
    """What stands there while the daemon does not answer."""
    what = "no daemon runs" if error.reason == "down" else "the daemon does not answer"
    return f"{what}; waiting for one" if last is None else f"{what}: this is how it was"


def _facts(top: m.Top) -> list[str]:
    host, running = top.host, sum(job.state != "queued" for job in top.jobs)
    waiters = sum(job.waiters for job in top.jobs)
    jobs = f"{running} of {top.slots} slots busy, {len(top.jobs) - running} queued, {counted(waiters, 'waiter')}"
    looked = max(0, host.waiting - waiters)
    jobs += f", {looked} being looked up" if looked else ""
    memory = f"{size(host.memory_available)} of {size(host.memory_total)} free, {host.cores:g} cores"
    found = [("jobs", jobs), ("host", f"{memory}; the daemon takes {size(host.resident)}")]
    found.append(("asked", screens.asked(top.counters)))
    found.append(("saved", screens.saved(top.counters)))
    return [f"  {name:<8}{text}" for name, text in found if text]


def _jobs(top: m.Top, columns: int, glyphs: Glyphs) -> list[str]:
    if not top.jobs:
        return ["no compile runs or waits"]
    order = sorted(top.jobs, key=lambda job: job.state == "queued")
    names = [plain(Path(job.model).name) or job.key[:12] for job in order]
    widest = max(map(cells, names))
    who = [f"{job.waiters:>2} wait" if columns >= WIDE else f"{job.waiters:>3}" for job in order]
    lines = ["COMPILES" if columns >= WIDE else _ends("COMPILES", "WAITERS", columns, glyphs)]
    for job, name, waiting in zip(order, names, who, strict=True):
        tail = f"  {job.key[:12]}  {waiting}" if columns >= WIDE else waiting
        shown = m.Progress(
            stage=job.stage if job.state != "queued" else "queued",
            detail=job.detail.partition(", starts in")[0],
            fraction=job.fraction,
            elapsed=job.elapsed,
            left=job.left,
        )
        room = columns - cells(tail)
        bar = line(Bar(name, shown, heard=0.0), room, 0.0, label_width=widest, glyphs=glyphs)
        lines.append(pad(bar, room) + tail)
    return lines


def _recent(recent: tuple[m.OutcomeReport, ...], columns: int, glyphs: Glyphs) -> list[str]:
    names = [plain(Path(each.model).name) or "-" for each in recent]
    wide = columns >= WIDE
    name_width = min(max(map(cells, names), default=0), 36 if wide else 22)
    who_width = min(max((cells(plain(each.program)) for each in recent), default=0), 16)
    lines = []
    for each, name in zip(recent, names, strict=True):
        at = time.strftime("%H:%M:%S", time.localtime(each.at))
        parts = [at, f"{WORDS.get(each.what, plain(each.what)):<9}", _took(each.seconds)]
        if wide:
            parts.insert(1, each.key[:12].ljust(12))
        parts.append(pad(cut(name, name_width, glyphs), name_width))
        if wide and who_width:
            parts.append(pad(cut(plain(each.program), who_width, glyphs), who_width))
        parts.append(plain(each.detail).removeprefix("The compile failed: "))
        lines.append("  ".join(parts))
    return lines


def _took(seconds: float) -> str:
    return f"{seconds:6.1f}s" if seconds < 100 else f"{clock(seconds):>7}"  # noqa: PLR2004 - from there tenths are noise


def _ends(left: str, right: str, columns: int, glyphs: Glyphs) -> str:
    """Two texts, at the two ends of a line."""
    room = columns - cells(right) - 2
    return pad(cut(left, room, glyphs), room) + "  " + right if room > 0 else cut(right, columns, glyphs)


def _shortened(lines: list[str], height: int) -> list[str]:
    hidden = len(lines) - height + 1
    return lines if hidden <= 1 else [*lines[: height - 1], f"and {hidden} more lines"]
