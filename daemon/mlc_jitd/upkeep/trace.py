"""Write what was compiled as a trace for Perfetto (ui.perfetto.dev)."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit._version import __version__
from mlc_jit.errors import StoreUnwritableError
from mlc_jitd.observe.trace import trace
from mlc_jitd.upkeep.history import Known, add_choice, chosen

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell

LAST = 1000


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_choice(parser, last=LAST)
    parser.add_argument("-o", "--output", required=True, help="the file to write")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Do it.

    Raises:
        StoreUnwritableError: The history can't be read, or the file not be written.
    """
    known = Known.read(current=True)
    jobs = [*chosen(known.ended, arguments), *chosen(known.current, arguments)]
    about = {"version": __version__, "host": platform.node(), "cache": str(known.history.folder.parent)}
    made = trace(jobs, known.counts(), about=about)
    payload = json.dumps(made, separators=(",", ":")).encode()
    return {
        "file": written(Path(arguments.output), payload),
        "size": len(payload),
        "jobs": len(jobs),
        "events": len(made["traceEvents"]),
    }


def written(path: Path, payload: bytes) -> str:
    """Write a file that somebody asked for, and say its absolute path.

    Raises:
        StoreUnwritableError: It can't be written.
    """
    try:
        path.write_bytes(payload)
    except OSError as error:
        raise StoreUnwritableError(
            f"{path} can't be written: {error.strerror or error}.",
            remedy="Name a file in a folder that this user can write.",
            reason="output",
        ) from error
    return str(path.absolute())
