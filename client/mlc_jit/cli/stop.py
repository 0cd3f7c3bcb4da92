"""``mlc-jit stop``: have the daemon drain and end. Never starts one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.cli.asking import answer

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("stop", help="have the daemon end when its running compiles have; never starts one")
    parser.add_argument("--now", action="store_true", help="end running compiles too")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    stopping = answer(lambda id_: m.StopRequest(id=id_, now=arguments.now), m.Stopping)
    if arguments.json:
        print(json.dumps({"pid": stopping.pid, "jobs": stopping.jobs}))
    elif stopping.jobs and not arguments.now:
        compiles = "compile" if stopping.jobs == 1 else "compiles"
        print(f"The daemon (pid {stopping.pid}) ends after {stopping.jobs} running {compiles}.")
    else:
        print(f"The daemon (pid {stopping.pid}) is ending.")
    return 0
