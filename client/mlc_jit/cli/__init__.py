"""``mlc-jit``: the verbs, one module each. A verb is its help, its arguments, what it does and how it shows it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

from mlc_jit._version import __version__
from mlc_jit.errors import DaemonUnavailableError, JitError, PolicyError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = (
    "compile_",
    "exec_",
    "status",
    "top",
    "list_",
    "gc_",
    "log",
    "history",
    "trace",
    "report",
    "cancel",
    "stop",
    "pin",
    "unpin",
    "prewarm",
    "watch",
    "doctor",
    "explain",
    "verify",
    "quarantine",
    "adopt",
    "export",
    "import_",
    "remote",
    "config",
    "service",
    "completion",
)
"""The modules here that are verbs, in the order of the help."""

EXIT_CODES = """\
exit codes; of several models, the first that holds in the order 1, 2, 4, 3:
  0    done
  1    no library: the compile failed, the cache can't be used, or the daemon refused
  2    the request or the command line is wrong
  3    no daemon is running (status, top, list, cancel, stop, watch)
  4    the policy forbids it: OFF, or READONLY and not in the cache
  130  interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = command_line().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except JitError as error:
        show_error(error, as_json=getattr(arguments, "json", False))
        return exit_code(error)
    except KeyboardInterrupt:
        print("mlc-jit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more: no second complaint
        return 1
    return code


def command_line() -> argparse.ArgumentParser:
    """The whole command line; ``--help``, the man page and the completion scripts all come from it."""
    parser = argparse.ArgumentParser(
        prog="mlc-jit",
        description="Compile MLC-LLM model libraries through this host's mlc-jitd, and look after it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlc-jit {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        importlib.import_module(f"{__name__}.{name}").add(verbs)
    return parser


def exit_code(error: JitError) -> int:
    """What a verb that ended with this error exits with."""
    if isinstance(error, RequestError):
        return 2
    if isinstance(error, PolicyError):
        return 4
    if isinstance(error, DaemonUnavailableError) and error.reason == "down":
        return 3
    return 1


def plain_error(error: JitError) -> dict[str, str]:
    """An error as it stands in JSON."""
    return {"error": error.kind, "message": error.message, **error.facts()}


def show_error(error: JitError, *, as_json: bool = False, about: str = "") -> None:
    """An error for people, or as JSON.

    Args:
        error: What happened.
        as_json: On standard output, for programs.
        about: Which of several models it is about.
    """
    if as_json:
        print(json.dumps(plain_error(error), indent=1))
        return
    print(f"mlc-jit: {about + ': ' if about else ''}{error}", file=sys.stderr)
    if error.log_tail:
        last = error.log_tail.rstrip().splitlines()[-15:]
        print("The log's last lines:", *(f"  | {line}" for line in last), sep="\n", file=sys.stderr)
