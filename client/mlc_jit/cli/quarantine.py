"""``mlc-jit quarantine``: the damaged entries that were set aside, and why."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import duration, size
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

_WIDEST, _NARROWEST = 110, 40


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "quarantine",
        help="list the damaged entries that were set aside, and why",
        description="List the damaged entries that were set aside, newest first; no daemon is needed.",
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these: keys, or their beginnings")
    parser.add_argument("--clear", action="store_true", help="remove them")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("quarantine", *arguments.keys, *(["--clear"] if arguments.clear else []))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(report, now=time.time(), width=shutil.get_terminal_size().columns))
    return 0


def screen(report: dict[str, Any], *, now: float, width: int) -> str:
    """The report as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    entries = report["entries"]
    if not entries:
        return "Nothing is set aside."
    total = sum(each["size"] for each in entries)
    what = f"{len(entries)} damaged {'entry' if len(entries) == 1 else 'entries'}, {size(total)}"
    if report["cleared"]:
        return f"Removed {what}."
    lines = []
    for each in entries:
        age = duration(max(0.0, now - each["when"]))
        lines.append(f"{each['key'][:12] or '?':<12}  {age:>10} ago  {size(each['size']):>9}")
        lines += textwrap.wrap(
            each["why"][:1].upper() + each["why"][1:],
            width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join([*lines, "", f"{what} in {report['folder']}; `mlc-jit quarantine --clear` removes them."])
