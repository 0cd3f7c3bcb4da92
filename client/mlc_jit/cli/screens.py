"""What the screens of ``status`` and ``top`` share: jobs as rows, facts in words. Pure: messages in, text out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.bars import Glyphs, cells, clock, cut, plain
from mlc_jit.figures import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jit import messages as m

LEAST = 10
"""Columns that a text is not cut below, however narrow the terminal."""

SETTLED_SECONDS = 60.0
"""Before that, a daemon's share of a core is that of its start: thousands of percent."""

JOB_HEADS = ["KEY", "STATE", "PROGRESS", "TIME", "LEFT", "WAITERS", "MODEL"]
JOB_RIGHT = frozenset({3, 4, 5})

_TROUBLES = {
    "engine_errors": "faults of the daemon's own (its log has them)",
    "handler_errors": "messages that it failed over (its log has them)",
    "leases_unwritten": "leases that could not be written",
    "dropped_replies": "replies that nobody took",
}
"""Counters that say that something is off."""


def glyphs() -> Glyphs:
    """What standard output can show."""
    return Glyphs.of(getattr(sys.stdout, "encoding", None) or "utf-8")


def counted(count: int, one: str, many: str = "") -> str:
    """``1 hit``, ``2 hits``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def asked(counters: Mapping[str, int]) -> str:
    """How many requests were hits, and why the others were none."""
    misses = {name.removeprefix("misses_"): count for name, count in counters.items() if name.startswith("misses_")}
    hits, missed = counters.get("hits", 0), sum(misses.values())
    if not hits + missed:
        return "nothing yet"
    shown = f"{counted(hits, 'hit')} of {hits + missed}, {ratio(hits, missed)}"
    if missed:
        why = ", ".join(f"{count} {name}" for name, count in sorted(misses.items(), key=lambda each: -each[1]))
        shown += f"; {counted(missed, 'miss', 'misses')}: {why}"
    return shown


def ratio(hits: int, misses: int) -> str:
    """The hit ratio: never 100 % with a miss, never 0 % with a hit."""
    share = 100 * hits / (hits + misses)
    if misses and share > 99.9:  # noqa: PLR2004 - what rounding would hide
        return "over 99.9 %"
    if hits and share < 0.1:  # noqa: PLR2004
        return "under 0.1 %"
    return f"{share:.0f} %" if share in (0.0, 100.0) else f"{share:.1f} %"


def saved(counters: Mapping[str, int]) -> str:
    """Compile time that was spared: of every library that a process got for the first time, less what was spent."""
    lent, spent = counters.get("lent_milliseconds", 0), counters.get("compile_milliseconds", 0)
    if not counters.get("lent", 0):
        return ""
    given = f"{counters['lent']} handed to processes"
    return f"{duration(max(0, lent - spent) / 1000)} of compile time: {given}, {duration(spent / 1000)} spent"


def host(report: m.HostReport, *, slots: int) -> str:
    """What compiles may use."""
    shown = f"{report.cores:g} {'core' if report.cores == 1 else 'cores'}"
    if slots:
        each = f" of {counted(report.cores_per_job, 'core')}" if report.cores_per_job else ""
        shown += f" for {counted(slots, 'compile')}{each}"
    if report.memory_total:
        shown += f"; {size(report.memory_available)} of {size(report.memory_total)} free for them"
    return shown + (f"; {counted(report.gpus, 'GPU')}" if report.gpus else "")


def itself(report: m.HostReport, uptime: float) -> str:
    """What the daemon takes."""
    if uptime < SETTLED_SECONDS:
        return size(report.resident)
    share = 100 * report.processor / uptime
    return f"{size(report.resident)}, {share:.1f} % of a core since its start"


def health(status: m.Status, version: str) -> list[str]:
    """What is off, a phrase each; nothing where all is well.

    Args:
        status: The daemon's.
        version: Of this command.
    """
    found = []
    if status.draining:
        found.append("it drains: the next request starts or finds its successor")
    if status.version != version:
        found.append(f"it is version {status.version}, this command is {version} (`mlc-jit stop` ends it)")
    found += [f"{status.counters[name]} {what}" for name, what in _TROUBLES.items() if status.counters.get(name, 0)]
    if status.cache is not None and (status.cache.over or status.cache.short):
        found.append("the cache can't be kept within its bounds (`mlc-jit gc --dry-run` says why)")
    found += [f"layer {layer.path}: {layer.state}" for layer in status.layers if layer.state != "ok"]
    if status.remote is not None and status.remote.state != "ok":
        found.append(f"the remote cache: {status.remote.state}")
    return found


def job_row(job: m.JobReport) -> list[str]:
    """One job under ``JOB_HEADS``."""
    return [
        job.key[:12],
        job.state,
        progress(job),
        clock(job.elapsed),
        "" if job.left is None else clock(job.left),
        str(job.waiters),
        plain(Path(job.model).name),
    ]


def progress(job: m.JobReport) -> str:
    """How far a job is, in words."""
    if job.state == "queued":  # when it starts is in what is left
        return job.detail.partition(", starts in")[0].replace("position ", "#") or job.stage
    return job.stage if job.fraction is None else f"{job.fraction:.0%} {job.stage}"


def fitted(rows: list[list[str]], width: int | None, *, long: int = 2) -> list[list[str]]:
    """The rows with their two long columns cut so that a line fits; the last one keeps its beginning.

    Args:
        rows: Of a table whose columns are two blanks apart.
        width: Columns of the terminal; ``None`` for no bound.
        long: The other long column.
    """
    last = len(rows[0]) - 1
    widest = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = (width or 0) - 1 - sum(widest) + widest[long] + widest[last] - 2 * last
    if width is None or widest[long] + widest[last] <= room:
        return rows
    of_last = min(widest[last], max(LEAST, room - widest[long]))
    of_long = max(LEAST, room - of_last)
    limits, known = {long: of_long, last: of_last}, glyphs()
    return [[cut(text, limits.get(column, cells(text)), known) for column, text in enumerate(row)] for row in rows]
