"""``mlc-jit status``: how the daemon is. Never starts one."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.bars import clock
from mlc_jit.cli.asking import answer, duration, size, table

if TYPE_CHECKING:
    import argparse


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
        print(screen(status))
    return 0


def screen(status: m.Status) -> str:
    """The status as text for a terminal."""
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
    served = [_counted(count("hits", 0), "hit"), _counted(count("compiles", 0), "compile")]
    served += [f"{count('joins', 0)} joined", f"{count('failures', 0)} failed"]
    lines.append(f"  served  {', '.join(served)}")
    if "kernels" in status.counters:
        known = f"{_counted(count('kernels', 0), 'kernel')} known, {size(count('kernel_bytes', 0))}"
        saved = clock(count("kernel_milliseconds_saved", 0) / 1000)
        lines.append(f"  reused  {count('kernels_reused', 0)} of {known}; {saved} of processor time saved")
    running = sum(job.state != "queued" for job in status.jobs)
    slots = f" on {_counted(status.slots, 'slot')}" if status.slots else ""
    lines.append(f"  jobs    {running} running{slots}, {len(status.jobs) - running} queued")
    if status.jobs:
        rows = [["KEY", "STATE", "PROGRESS", "TIME", "LEFT", "WAITERS", "MODEL"]]
        rows += [
            [
                job.key[:12],
                job.state,
                _progress(job),
                duration(job.elapsed),
                "" if job.left is None else clock(job.left),
                str(job.waiters),
                Path(job.model).name,
            ]
            for job in status.jobs
        ]
        lines += ["", table(rows, right=frozenset({3, 4, 5}))]
    return "\n".join(lines)


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


def _progress(job: m.JobReport) -> str:
    if job.state == "queued":
        return job.detail or job.stage
    return job.stage if job.fraction is None else f"{job.fraction:.0%} {job.stage}"


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
