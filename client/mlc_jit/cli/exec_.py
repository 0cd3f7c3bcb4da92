"""``mlc-jit exec -- PROGRAM ARGUMENT...``: run a Python program whose mlc_llm asks the daemon."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mlc_jit import variables
from mlc_jit.errors import RequestError

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that can't be run, as a shell's and env's."""

STARTUP = Path(__file__).parents[1] / "startup"


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "exec",
        help="run a Python program whose mlc_llm uses the daemon, as `mlc_llm serve`",
        usage="mlc-jit exec [--require] -- PROGRAM [ARGUMENT ...]",
        description=(
            "Run a program in this process's place. Wherever it, or a Python process that it starts, calls mlc_llm's "
            "jit(), the daemon is asked. The program's interpreter must have mlc_jit too. Python's options -I, -E and "
            "-S switch such hooks off. Exit code: the program's; 126 or 127 if it can't be run."
        ),
    )
    parser.add_argument(
        "--require", action="store_true", help="fail where the daemon can't be used, instead of going on without it"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="PROGRAM", help="and its arguments, behind --")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Become the program."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise RequestError("There is no program to run.", remedy="Write `mlc-jit exec -- PROGRAM ARGUMENT ...`.")
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, environment(dict(os.environ), require=arguments.require))  # noqa: S606
    except OSError as error:
        print(f"mlc-jit: {command[0]} can't be run: {error.strerror}.", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def environment(environ: dict[str, str], *, require: bool = False) -> dict[str, str]:
    """An environment whose Python programs use the daemon.

    Args:
        environ: The one to begin with.
        require: Whether a daemon that can't be used is an error there.
    """
    others = variables.without_startup(environ.get("PYTHONPATH", ""))
    found = {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.fspath(STARTUP), others)))}
    if require:
        found["MLC_JITD"] = "require"
    return found
