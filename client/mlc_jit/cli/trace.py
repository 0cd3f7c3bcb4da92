"""``mlc-jit trace -o FILE``: what was compiled, as a trace for Perfetto; no daemon is needed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import size
from mlc_jit.cli.history import add_choice, choice
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

LAST = 1000


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "trace",
        help="write queueing, stages and waits of compiles to a file for Perfetto",
        description=(
            "Write what was compiled to a file in the JSON form of Chrome's trace events: queueing, each stage, who "
            "waited, what was answered. Open it at ui.perfetto.dev (it stays in the browser). What "
            "runs just now is in it where a daemon runs; none is needed or started."
        ),
    )
    add_choice(parser, last=LAST)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("trace", "-o", arguments.output, *choice(arguments))
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    count = report["jobs"]
    said = f"{count} {'compile' if count == 1 else 'compiles'}, {report['events']} events, {size(report['size'])}; "
    print(said + "open it at https://ui.perfetto.dev", file=sys.stderr)
    print(report["file"])
    return 0
