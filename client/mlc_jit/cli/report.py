"""``mlc-jit report -o FILE``: one page with plots of what a cache's history comes to; no daemon is needed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import size
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "report",
        help="write a page with plots: compiles, hits and misses, where time goes, the cache",
        description=(
            "Write one HTML page with plots of what was compiled, of hits and misses over time, of where compile time "
            "goes and of what the cache holds. It needs no network and no script; no daemon is needed."
        ),
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("report", "-o", arguments.output)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    count = report["compiles"]
    print(f"{count} {'compile' if count == 1 else 'compiles'}, {size(report['size'])}", file=sys.stderr)
    print(report["file"])
    return 0
