"""``mlc-jit config``: every setting of the daemon, its value, who says so, and what it means."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

_WIDEST, _NARROWEST, _INDENT = 110, 40, "    "


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "config",
        help="show every setting of the daemon, its value and where that comes from; exit code 2 if one is wrong",
        description="Show the settings that a daemon would have that is started from this environment: a flag of "
        "`mlc-jitd run` beats a variable, a variable beats the user's file, and that beats the host's.",
    )
    parser.add_argument("--changed", action="store_true", help="only what is not at its default")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    found = upkeep("config")
    if arguments.changed:
        found["settings"] = [each for each in found["settings"] if each["origin"] != "default"]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print(screen(found, width=shutil.get_terminal_size().columns))
        for slip in found["slips"]:
            print(f"mlc-jit: {slip['message']} {slip['remedy']}", file=sys.stderr)
    return 2 if found["slips"] else 0


def screen(found: dict[str, Any], *, width: int) -> str:
    """The settings as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    lines = [f"{'file' if each['read'] else 'no file'}  {_short(each['path'])}" for each in found["files"]]
    for each in found["settings"]:
        first = f"{each['name']} = {each['shown']}"
        origin = "" if each["origin"] == "default" else f"from {_short(each['source'])}"
        gap = " " * max(2, width - len(first) - len(origin))
        lines += ["", f"{first}{gap}{origin}".rstrip()]
        default = "" if each["origin"] == "default" else f" (default {each['default']})"
        lines += textwrap.wrap(
            f"{each['meaning']}{default}", width, initial_indent=_INDENT, subsequent_indent=_INDENT,
            break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def _short(path: str) -> str:
    home = str(Path("~").expanduser())
    return path.replace(home, "~", 1) if path.startswith(home + "/") else path
