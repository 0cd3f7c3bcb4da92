"""``mlc-jit watch``: what happens in the daemon, one line for each event. Never starts one."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.watching import watch

if TYPE_CHECKING:
    import argparse

    from mlc_jit import messages as m


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "watch",
        help="tell what happens in the daemon, until it ends",
        description=(
            "Tell what happens in the daemon, one line for each event, until it ends or Ctrl-C: model folders that "
            "change, entries that nobody asks for any more, compiles. Never starts a daemon."
        ),
    )
    parser.add_argument("--json", action="store_true", help="print each event as JSON on a line of its own")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    for event in watch():
        if arguments.json:
            print(json.dumps({name: value for name, value in dataclasses.asdict(event).items() if name != "id"}))
        else:
            print(line(event))
        sys.stdout.flush()
    return 0


def line(event: m.Event) -> str:
    """An event for people."""
    words = [time.strftime("%H:%M:%S", time.localtime(event.at)), f"{event.what:<10}"]
    words += [event.key[:12], Path(event.folder).name, event.detail]
    return "  ".join(word for word in words if word).rstrip()
