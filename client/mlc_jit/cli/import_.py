"""``mlc-jit import``: entries taken from files that ``mlc-jit export`` wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "import",
        help="take libraries into the cache from files that `mlc-jit export` wrote",
        description=(
            "Take libraries into the cache from files that `mlc-jit export` wrote. What is there already stays; every "
            "digest is checked before anything is visible."
        ),
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="files that `mlc-jit export` wrote")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("import", "--", *arguments.files)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        for each in report:
            there = len(each["there"])
            said = [f"{len(each['imported'])} imported", f"{there} {'was' if there == 1 else 'were'} there"]
            busy = f", {len(each['busy'])} left out: they are being compiled" if each["busy"] else ""
            print(f"{each['file']}: {', '.join(said)}{busy}.")
    return int(any(each["busy"] for each in report))
