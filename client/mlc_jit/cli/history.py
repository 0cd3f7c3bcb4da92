"""``mlc-jit history``: what was compiled when, how long, for whom, how it ended; no daemon is needed."""

from __future__ import annotations

import argparse
import json
import pwd
import shutil
import sys
import textwrap
import time
from pathlib import PurePath
from typing import Any

from mlc_jit.bars import Glyphs, cells, cut
from mlc_jit.cli.asking import duration
from mlc_jit.cli.upkeep import upkeep

LAST = 20
DAY = 86400
_LONGEST_DEVICE = 20
_NARROWEST = 40
_LEAST = 12
"""Columns that a model's name and a program's are not cut below."""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "history",
        help="show what was compiled: when, how long, for whom, how it ended",
        description=(
            "Show the compiles of this cache, newest first, with the cause of each failure; no daemon is needed. What "
            "runs just now is in `mlc-jit status`."
        ),
    )
    add_choice(parser, last=LAST)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def add_choice(parser: argparse.ArgumentParser, *, last: int) -> None:
    """Declare which compiles are meant."""
    parser.add_argument("model", metavar="MODEL", nargs="?", default="", help="a folder, part of its path, or a key")
    parser.add_argument(
        "--last", metavar="N", type=_count, default=last, help="how many (default: %(default)s; 0 for all)"
    )
    parser.add_argument("--failed", action="store_true", help="only those that failed")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is no number of compiles")
    return count


def choice(arguments: argparse.Namespace) -> list[str]:
    """The same for ``mlc-jitd``."""
    words = [f"--last={arguments.last}", *["--failed"] * arguments.failed]
    return [*words, "--", arguments.model] if arguments.model else words


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("history", *choice(arguments))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(screen(report, now=time.time(), width=wide))
    return 0


def screen(report: dict[str, Any], *, now: float, width: int | None = None) -> str:
    """The report as text; what is long is cut to ``width`` columns, if there are any."""
    jobs = report["jobs"]
    note = f"Of the host's daemon ({report.get('host')}): what you asked for, as far as it remembers."
    host = ["", *(textwrap.wrap(note, width) if width else [note])] if report.get("host") else []
    if not jobs:
        nothing = "Nothing has been compiled here yet." if not report["known"] else "No compile of that kind is known."
        return "\n".join([nothing, *host])
    rows = [["WHEN", "KEY", "OUTCOME", "TOOK", "QUEUED", "FOR", "MODEL"], *(_row(job, now) for job in jobs)]
    lines = _fitted(rows, width)
    shown = [lines[0]]
    for job, line in zip(jobs, lines[1:], strict=True):
        shown += [line, *_remarks(job, max(_NARROWEST, width) if width else 0)]
    if len(jobs) < report["matched"]:
        shown += ["", f"{len(jobs)} of {report['matched']:,} known (--last 0 shows all)"]
    return "\n".join(shown + host)


def _row(job: dict[str, Any], now: float) -> list[str]:
    ending, subject = job["ending"], job["subject"]
    waiters = len(job["waiters"]) + job["more"]
    others = f" +{waiters - 1}" if waiters > 1 else ""
    return [
        moment(job["asked"], now),
        subject["key"][:12],
        ending["outcome"],
        duration(ending["seconds"] or max(0.0, job["seconds"] - job["queued"])),
        duration(job["queued"]) if job["queued"] >= 1 else "",
        plain(_asker(job) + others),
        _model(subject),
    ]


def _model(subject: dict[str, Any]) -> str:
    name, device = plain(PurePath(subject["model"]).name or "?"), plain(subject["device"])
    if len(device) > _LONGEST_DEVICE:
        device = device[: _LONGEST_DEVICE - 1] + "…"
    return name if device in ("", "auto") else f"{name} ({device})"


def _asker(job: dict[str, Any]) -> str:
    """Who asked first: the program, and the user where it is another one."""
    who = next((wait["who"] for wait in job["waiters"]), None)
    if who is None:
        return ""
    return str(who["program"] or (f"pid {who['pid']}" if who["pid"] else user(who["uid"])))


def _remarks(job: dict[str, Any], width: int) -> list[str]:
    """What a row has no room for, below it."""
    ending = job["ending"]
    said = []
    if ending["cause"]:
        said.append(ending["cause"])
    if ending["degraded"]:
        said.append(f"degraded: {', '.join(ending['degraded'])}")
    if job["retried"]:
        said.append("ran out of memory once, and was tried again alone")
    lines = []
    for each in said:
        text = plain(each)
        lines += (
            textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ") if width else [f"    {text}"]
        )
    return lines


def _fitted(rows: list[list[str]], width: int | None) -> list[str]:
    """The rows as lines; the two last columns give way, the asker first."""
    widest = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    asker, model = len(widest) - 2, len(widest) - 1
    if width is not None:
        over = sum(widest) + 2 * model - (width - 1)
        for column in (asker, model):
            less = max(0, min(over, widest[column] - _LEAST))
            widest[column] -= less
            over -= less
    glyphs = Glyphs.of(getattr(sys.stdout, "encoding", None) or "utf-8")
    lines = []
    for row in rows:
        shown = []
        for column, whole in enumerate(row):
            text = cut(whole, widest[column], glyphs)
            space = " " * (widest[column] - cells(text))
            shown.append(space + text if column in (3, 4) else text + space)
        lines.append("  ".join(shown).rstrip())
    return lines


def moment(when: float, now: float) -> str:
    """A time of day for people, with the date where it was another day, in this host's zone."""
    then = time.localtime(when)
    if then[:3] == time.localtime(now)[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%b %d %H:%M" if now - when < 300 * DAY else "%Y-%m-%d", then)


def plain(text: str) -> str:
    """A text that can do nothing to a terminal: model paths and causes are data."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def user(uid: int) -> str:
    """A user's name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid {uid}"
