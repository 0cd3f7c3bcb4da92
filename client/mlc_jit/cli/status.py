"""``mlc-jit status``: how the daemon is, on one screen. Never starts one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit._version import __version__
from mlc_jit.bars import clock
from mlc_jit.cli import screens
from mlc_jit.cli.asking import answer, duration, shortened, size, table
from mlc_jit.cli.screens import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

INDENT = " " * 10
"""Under what a line says; its name stands left of it."""


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
    """The status as text; what is long is folded or cut to ``width`` columns, if there are any."""
    count = status.counters.get
    state = "draining" if status.draining else "serving"
    lines = [f"mlc-jitd {status.version}, pid {status.pid}, {state} for {duration(status.uptime)}"]
    running = sum(job.state != "queued" for job in status.jobs)
    slots = f" on {counted(status.slots, 'slot')}" if status.slots else ""
    jobs = f"{running} running{slots}, {len(status.jobs) - running} queued"
    served = [counted(count("hits", 0), "hit"), counted(count("compiles", 0), "compile")]
    served += [f"{count('joins', 0)} joined", f"{count('failures', 0)} failed"]
    facts = [("health", "; ".join(screens.health(status, __version__)) or "good"), ("jobs", jobs)]
    if status.host is not None:
        if status.host.waiting:
            facts[-1] = ("jobs", f"{jobs}; {counted(status.host.waiting, 'request')} unanswered")
        facts.append(("host", screens.host(status.host, slots=status.slots)))
    facts += [("served", ", ".join(served)), ("asked", screens.asked(status.counters))]
    facts.append(("saved", screens.saved(status.counters)))
    facts.append(("cache", _cache(status)))
    if status.cache is not None and status.cache.collected:
        facts.append(("", _collected(status.cache, time.time())))
    for layer in status.layers:
        what = f"{counted(layer.entries, 'library', 'libraries')}, {size(layer.bytes)}"
        facts.append(("layer", f"{layer.path}: " + (what if layer.state == "ok" else f"{layer.state}, {layer.detail}")))
        facts += [("", layer.remedy)] if layer.remedy else []
    facts += _remote(status.remote, count) if status.remote is not None else []
    facts += [("kernels", _kernels(status.counters)), ("warm", _warm(status.counters))]
    facts += _models(status.folders) if status.folders else []
    if status.host is not None and status.host.resident:
        facts.append(("daemon", screens.itself(status.host, status.uptime)))
    facts += [("home", status.home), ("socket", status.socket)]
    facts.append(("log", status.log_path or "standard error of the daemon"))
    for name, text in (each for each in facts if each[1]):
        lines += _folded(f"  {name:<8}{text}" if name else INDENT + text, width)
    if status.jobs:
        rows = [screens.JOB_HEADS, *map(screens.job_row, status.jobs)]
        lines += ["", table(screens.fitted(rows, width), right=screens.JOB_RIGHT)]
    return "\n".join(lines)


def _folded(line: str, width: int | None) -> list[str]:
    """A line, broken between words where it is too long; paths stay whole, to be copied."""
    if width is None or len(line) < width:
        return [line]
    return textwrap.wrap(
        line,
        max(40, width - 1),
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _kernels(counters: dict[str, int]) -> str:
    if not counters.get("kernels", 0):
        return ""
    line = f"{counters['kernels']} known, {size(counters.get('kernel_bytes', 0))}"
    if reused := counters.get("kernels_reused", 0):
        saved = clock(counters.get("kernel_milliseconds_saved", 0) / 1000)
        line += f"; {reused} reused, {saved} of processor time saved"
    return line


def _models(folders: tuple[m.FolderReport, ...]) -> list[tuple[str, str]]:
    """How many model folders are watched how, and those that want a word."""
    manners = Counter(folder.watched for folder in folders)
    order = sorted(manners, key=lambda manner: [*_MANNERS, manner].index(manner))
    said = ", ".join(f"{manners[manner]} {_MANNERS.get(manner, manner)}" for manner in order)
    kept = sum(bool(folder.keep) for folder in folders)
    lines = [("models", said + (f"; {kept} kept" if kept else ""))]
    odd = [folder for folder in folders if folder.watched not in ("events", "gone") and folder.why]
    lines += [("", f"{folder.path}: {folder.watched}, {folder.why}") for folder in odd[:_MOST_ODD]]
    return lines + ([("", f"and {len(odd) - _MOST_ODD} more (--json)")] if len(odd) > _MOST_ODD else [])


_MOST_ODD = 4
_MANNERS = {
    "events": "watched by events",
    "polling": "polled",
    "scan": "scanned",
    "unseen": "not seen from here",
}


def _remote(remote: m.RemoteReport, count: Callable[..., int]) -> list[tuple[str, str]]:
    """How the bucket is, what came from it and went there, and what was refused."""
    state = remote.state if remote.state == "ok" else f"{remote.state}, {remote.detail}"
    state += f"; tried again in {duration(remote.again)}" if remote.again else ""
    if not remote.role:
        return [("remote", f"{remote.url}: {state}")]
    facts = [f"{count('remote_hits', 0)} fetched", f"{count('remote_misses', 0)} not there"]
    if remote.role == "builder":
        facts += [f"{count('remote_written', 0)} put there", *([f"{remote.waiting} waiting"] if remote.waiting else [])]
    named = {"failed": "remote_failed", "refused": "remote_refused", "not put there": "remote_unwritten"}
    facts += [f"{number} {what}" for what, name in named.items() if (number := count(name, 0))]
    lines = [("remote", f"{remote.url} ({remote.role}): {state}"), ("", ", ".join(facts))]
    lines += [("", f"refused: {shortened(each)}") for each in remote.refused]
    return lines + ([("", f"no leases: {remote.leases}")] if remote.leases else [])


def _cache(status: m.Status) -> str:
    shown = f"{counted(status.entries, 'library', 'libraries')}, {size(status.bytes)}"
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
    said = f"{counted(count('warm_workers', 0), 'compiler')} loaded; "
    said += f"{counted(count('warm_compiles', 0), 'compile')} used one, {count('plain_compiles', 0)} did not"
    ends = [f"{count(name)} {what}" for name, what in _ENDS.items() if count(name, 0)]
    return "; ".join([said, *([", ".join(ends)] if ends else [])])


_ENDS = {"warm_retired": "retired", "warm_crashed": "crashed", "warm_unfit": "unfit"}
