"""``mlc-jit status``: how the daemon is. Never starts one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.bars import Glyphs, cells, clock, cut
from mlc_jit.cli.asking import answer, duration, size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

LEAST = 10
"""Columns that a text is not cut below, however narrow the terminal."""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("status", help="show how the daemon is; never starts one")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    status = answer(lambda id_: m.StatusRequest(id=id_), m.Status)
    if arguments.json:
        facts = {name: value for name, value in dataclasses.asdict(status).items() if name != "id"}
        print(json.dumps(facts, indent=1))
    else:
        print(screen(status, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0


def screen(status: m.Status, width: int | None = None) -> str:
    """The status as text; what is long is cut to ``width`` columns, if there are any."""
    count = status.counters.get
    state = "draining" if status.draining else "serving"
    lines = [
        f"mlc-jitd {status.version}, pid {status.pid}, {state} for {duration(status.uptime)}",
        f"  home    {status.home}",
        f"  socket  {status.socket}",
        f"  log     {status.log_path or 'standard error of the daemon'}",
        f"  cache   {_cache(status)}",
    ]
    if status.cache is not None and status.cache.collected:
        lines.append(f"          {_collected(status.cache, time.time())}")
    for layer in status.layers:
        what = f"{_counted(layer.entries, 'library', 'libraries')}, {size(layer.bytes)}"
        lines.append(f"  layer   {layer.path}: " + (what if layer.state == "ok" else f"{layer.state}, {layer.detail}"))
        lines += [f"          {layer.remedy}"] if layer.remedy else []
    if status.remote is not None:
        lines += _remote(status.remote, count)
    served = [_counted(count("hits", 0), "hit"), _counted(count("compiles", 0), "compile")]
    served += [f"{count('joins', 0)} joined", f"{count('failures', 0)} failed"]
    lines.append(f"  served  {', '.join(served)}")
    if "kernels" in status.counters:
        line = f"  kernels {count('kernels', 0)} known, {size(count('kernel_bytes', 0))}"
        if reused := count("kernels_reused", 0):
            saved = clock(count("kernel_milliseconds_saved", 0) / 1000)
            line += f"; {reused} reused, {saved} of processor time saved"
        lines.append(line)
    if warm := _warm(status.counters):
        lines.append(f"  warm    {warm}")
    running = sum(job.state != "queued" for job in status.jobs)
    slots = f" on {_counted(status.slots, 'slot')}" if status.slots else ""
    lines.append(f"  jobs    {running} running{slots}, {len(status.jobs) - running} queued")
    if status.folders:
        lines += _models(status.folders)
    if status.jobs:
        rows = [["KEY", "STATE", "PROGRESS", "TIME", "LEFT", "WAITERS", "MODEL"]]
        rows += [
            [
                job.key[:12],
                job.state,
                _progress(job),
                clock(job.elapsed),
                "" if job.left is None else clock(job.left),
                str(job.waiters),
                Path(job.model).name,
            ]
            for job in status.jobs
        ]
        lines += ["", table(_fitted(rows, width), right=frozenset({3, 4, 5}))]
    return "\n".join(lines)


def _models(folders: tuple[m.FolderReport, ...]) -> list[str]:
    """How many model folders are watched how, and those that want a word."""
    manners = Counter(folder.watched for folder in folders)
    order = sorted(manners, key=lambda manner: [*_MANNERS, manner].index(manner))
    said = ", ".join(f"{manners[manner]} {_MANNERS.get(manner, manner)}" for manner in order)
    kept = sum(bool(folder.keep) for folder in folders)
    lines = [f"  models  {said}" + (f"; {kept} kept" if kept else "")]
    odd = [folder for folder in folders if folder.watched not in ("events", "gone") and folder.why]
    lines += [f"          {folder.path}: {folder.watched}, {folder.why}" for folder in odd[:_MOST_ODD]]
    return lines + ([f"          and {len(odd) - _MOST_ODD} more (--json)"] if len(odd) > _MOST_ODD else [])


_MOST_ODD = 4
_MANNERS = {
    "events": "watched by events",
    "polling": "polled",
    "scan": "scanned",
    "unseen": "not seen from here",
}


def _remote(remote: m.RemoteReport, count: Callable[..., int]) -> list[str]:
    """How the bucket is, what came from it and went there, and what was refused."""
    state = remote.state if remote.state == "ok" else f"{remote.state}, {remote.detail}"
    state += f"; tried again in {duration(remote.again)}" if remote.again else ""
    lines = [f"  remote  {remote.url} ({remote.role}): {state}" if remote.role else f"  remote  {remote.url}: {state}"]
    if not remote.role:
        return lines
    facts = [f"{count('remote_hits', 0)} fetched", f"{count('remote_misses', 0)} not there"]
    if remote.role == "builder":
        facts += [f"{count('remote_written', 0)} put there", *([f"{remote.waiting} waiting"] if remote.waiting else [])]
    named = {"failed": "remote_failed", "refused": "remote_refused", "not put there": "remote_unwritten"}
    facts += [f"{number} {what}" for what, name in named.items() if (number := count(name, 0))]
    lines.append(f"          {', '.join(facts)}")
    lines += [f"          refused: {each}" for each in remote.refused]
    return lines + ([f"          no leases: {remote.leases}"] if remote.leases else [])


def _cache(status: m.Status) -> str:
    shown = f"{_counted(status.entries, 'library', 'libraries')}, {size(status.bytes)}"
    life = status.cache
    if life is None:
        return shown
    if life.max_size:
        shown += f" of {size(life.max_size)}"
    facts = {"in use": life.leased, "pinned": life.pinned, "stale": life.stale}
    parts = [f"{count} {what}" for what, count in facts.items() if count]
    return "; ".join([shown, ", ".join(parts)]) if parts else shown


def _collected(life: m.CacheReport, now: float) -> str:
    ago = duration(max(0.0, now - life.collected))
    what = f"removed {life.removed}, {size(life.freed)}" if life.removed else "removed nothing"
    shown = f"last collection {ago} ago {what}"
    if life.over:
        return f"{shown}; {size(life.over)} over its size (`mlc-jit gc --dry-run` says why)"
    if life.short:
        return f"{shown}; {size(life.short)} short of room (`mlc-jit gc --dry-run` says why)"
    return shown


def _warm(counters: dict[str, int]) -> str:
    """What the warm compilers did; nothing where there were none."""
    count = counters.get
    if not count("warm_started", 0):
        return ""
    said = f"{_counted(count('warm_workers', 0), 'compiler')} loaded; "
    said += f"{_counted(count('warm_compiles', 0), 'compile')} used one, {count('plain_compiles', 0)} did not"
    ends = [f"{count(name)} {what}" for name, what in _ENDS.items() if count(name, 0)]
    return "; ".join([said, *([", ".join(ends)] if ends else [])])


_ENDS = {"warm_retired": "retired", "warm_crashed": "crashed", "warm_unfit": "unfit"}


def _fitted(rows: list[list[str]], width: int | None) -> list[list[str]]:
    """The rows with their two long columns cut so that a line fits; the model's name keeps its beginning."""
    progress, model = 2, len(rows[0]) - 1
    widest = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = (width or 0) - 1 - sum(widest) + widest[progress] + widest[model] - 2 * model
    if width is None or widest[progress] + widest[model] <= room:
        return rows
    of_model = min(widest[model], max(LEAST, room - widest[progress]))
    of_progress = max(LEAST, room - of_model)
    limits = {progress: of_progress, model: of_model}
    glyphs = Glyphs.of(getattr(sys.stdout, "encoding", None) or "utf-8")
    return [[cut(text, limits.get(column, cells(text)), glyphs) for column, text in enumerate(row)] for row in rows]


def _progress(job: m.JobReport) -> str:
    if job.state == "queued":  # when it starts is in what is left
        return job.detail.partition(", starts in")[0].replace("position ", "#") or job.stage
    return job.stage if job.fraction is None else f"{job.fraction:.0%} {job.stage}"


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
