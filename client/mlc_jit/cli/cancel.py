"""``mlc-jit cancel KEY``: end a queued or running compile, whoever waits for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.cli.asking import answer

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("cancel", help="end a queued or running compile; everyone who waits for it is told")
    parser.add_argument("key", help="its key, or the beginning of it, as `mlc-jit status` shows it")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    cancelled = answer(lambda id_: m.Cancel(id=id_, key=arguments.key), m.Cancelled)
    print(json.dumps({"cancelled": cancelled.key}) if arguments.json else f"Cancelled {cancelled.key}.")
    return 0
