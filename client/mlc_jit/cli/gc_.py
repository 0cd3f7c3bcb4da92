"""``mlc-jit gc``: bring the cache within its bounds, and say of every library why it stays or goes."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import size
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

SHOWN = 20
"""Libraries that stay which are shown; what goes is shown always."""

BOUNDS = {
    "max-size": ("SIZE", "what the libraries may take: 20GiB, 500MiB; 0 for no limit"),
    "min-free": ("SIZE", "what must stay free on the cache's disk"),
    "max-age-days": ("DAYS", "how long a library may be unused; 0 for ever"),
    "stale-days": ("DAYS", "how long one stays that no known model folder asks for"),
    "grace-seconds": ("SECONDS", "how long after its publish or last use a library is not collected"),
}
_WIDEST, _NARROWEST = 110, 40


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "gc",
        help="remove what the cache has no room for, and say why; --dry-run only says it",
        description=(
            "Bring the cache within its bounds now, with a daemon or without one. Never removed: what a process uses, "
            "what is pinned, what is being compiled, and what is younger than the grace. Bounds that are not given are "
            "those of the settings (`mlc-jit config`)."
        ),
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="remove nothing, only say what would go")
    for name, (shown, text) in BOUNDS.items():
        parser.add_argument(f"--{name}", metavar=shown, help=text)
    parser.add_argument("--all", action="store_true", help="show every library that stays")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    words = ["--dry-run"] if arguments.dry_run else []
    for name in BOUNDS:
        value = getattr(arguments, name.replace("-", "_"))
        if value is not None:
            words.append(f"--{name}={value}")
    report = upkeep("gc", *words)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(report, width=shutil.get_terminal_size().columns, shown=None if arguments.all else SHOWN))
    return 0


def screen(report: dict[str, Any], *, width: int, shown: int | None = SHOWN) -> str:
    """The report as text.

    Args:
        report: What ``mlc-jitd gc`` says.
        width: Columns.
        shown: How many that stay are shown; ``None`` for all.
    """
    width = max(_NARROWEST, min(width, _WIDEST))
    removed, kept = report["removed"], report["kept"]
    lines = _rows("would go" if report["dry_run"] else "gone", removed, width)
    lines += _rows("stays", kept[:shown], width)
    if len(kept) > len(kept[:shown]):
        lines.append(f"… and {len(kept) - len(kept[:shown]):,} more that stay (--all shows them)")
    if lines:
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(summary(report), width)])


def _rows(word: str, rows: list[dict[str, Any]], width: int) -> list[str]:
    lines = []
    for each in rows:
        head = f"{word:<9}{each['key'][:12]}  {size(each['size']):>8}  {Path(each['model']).name or '?'}"
        lines.append(head if len(head) <= width else head[: width - 1] + "…")
        lines += textwrap.wrap(each["why"], width, initial_indent=" " * 9, subsequent_indent=" " * 9)
    return lines


def summary(report: dict[str, Any]) -> str:
    """What was done, and whether the bounds hold now."""
    count, left = len(report["removed"]), len(report["kept"])
    if not count + left:
        return f"The cache is empty.{_kernels(report)}"
    rules = report["rules"]
    holds = f"{_counted(left, 'library', 'libraries')}, {size(report['after'])}"
    if rules["max_size"] is not None:
        holds += f" of at most {size(rules['max_size'])}"
    if count:
        verb = "Would remove" if report["dry_run"] else "Removed"
        text = f"{verb} {_counted(count, 'library', 'libraries')}, {size(report['freed'])}. Left: {holds}."
    else:
        text = f"Nothing to remove: {holds}."
    if report["remains"]:
        text += f" {_counted(report['remains'], 'leftover', 'leftovers')} removed too."
    text += _kernels(report)
    if report["over"]:
        text += f" That is {size(report['over'])} too much: {_KEPT}."
    if report["free"] is not None:
        text += f" {size(report['free'] + report['freed'])} free on the disk"
        text += f", {size(report['short'])} too little: {_KEPT}." if report["short"] else "."
    return text


def _kernels(report: dict[str, Any]) -> str:
    text = f" Kernels take {size(report['kernels'])} more." if report["kernels"] else ""
    if report["kernels_freed"]:
        text += f" {size(report['kernels_freed'])} of kernels {'would go' if report['dry_run'] else 'went'} for room."
    return text


_KEPT = "all that is left is in use, pinned, young or locked"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
