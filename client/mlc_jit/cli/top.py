"""``mlc-jit top``: what the daemon does, as it does it. Never starts one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.cli import topscreen
from mlc_jit.cli.asking import answer
from mlc_jit.errors import DaemonUnavailableError
from mlc_jit.settings import silence_seconds
from mlc_jit.terminal import Terminal

if TYPE_CHECKING:
    import argparse

LEAST_SECONDS = 0.2

PATIENCE_SECONDS = 3.0
"""How long a look waits for the daemon: who watches wants to see that it hangs."""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "top",
        help="show live what the daemon does; never starts one",
        description=(
            "Show live what the daemon does: compiles with their stages, who waits, memory, what ended lately. "
            "q or Ctrl-C ends it. Where standard output is no terminal, one screen is printed."
        ),
    )
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--once", action="store_true", help="print one screen, and end")
    parser.add_argument("--json", action="store_true", help="print one look as JSON, and end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if arguments.json:
        facts = {name: value for name, value in dataclasses.asdict(_ask()).items() if name != "id"}
        print(json.dumps(facts, indent=1))
    elif arguments.once or not sys.stdout.isatty():
        print("\n".join(topscreen.screen(_ask(), now=time.time(), width=None, height=None)))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _live(arguments.interval)
    return 0


def _ask() -> m.Top:
    return answer(lambda id_: m.TopRequest(id=id_), m.Top, silence=min(PATIENCE_SECONDS, silence_seconds()))


def _live(seconds: float) -> None:
    """Until q or Ctrl-C; a daemon that goes away is waited for."""
    with Terminal() as terminal:
        last: m.Top | None = None
        heard = time.time()
        while True:
            try:
                last, heard, trouble = _ask(), time.time(), ""
            except DaemonUnavailableError as error:
                trouble = topscreen.away(error, last)
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                width, height = terminal.size()
                if last is None:
                    terminal.draw([trouble])
                else:
                    lines = topscreen.screen(
                        last, now=heard, width=width, height=height, glyphs=terminal.glyphs, trouble=trouble
                    )
                    terminal.draw(lines, dim=bool(trouble))
                key = terminal.wait(left)
                if key in ("q", "Q", "\x04"):
                    return


def _seconds(text: str) -> float:
    seconds = float(text)
    if not LEAST_SECONDS <= seconds < 1e6:  # noqa: PLR2004 - as good as for ever
        raise ValueError
    return seconds
