"""Verbs that work on the cache folder in a process of their own, beside a running daemon or without one.

Each is one module here: ``mlc-jitd NAME`` runs ``upkeep/NAME.py`` (``NAME_.py`` where Python or its library has that
name already), which has

    def add(parser: argparse.ArgumentParser) -> None                      # its arguments
    def run(arguments: argparse.Namespace, tell: Tell) -> Any             # what it found or did, as JSON values

and a docstring whose first line is its help. ``mlc-jit NAME`` runs it (``mlc_jit.cli.upkeep``) and shows it to people.

What goes to standard output is one JSON object a line: ``{"progress": ...}`` for each call of ``tell``, then one
``{"result": ...}``, or ``{"error": KIND, "message": ..., ...}`` as errors travel on the wire. Exit codes: 0 for a
result, 1 for an error, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Tell = Callable[[Any], None]
    """Says how far a verb is, in JSON values."""

logger = logging.getLogger(__name__)


def modules() -> dict[str, str]:
    """The verbs, and the module of each; imports none."""
    return {info.name.rstrip("_"): info.name for info in pkgutil.iter_modules(__path__)}


def main(verb: str, argv: Sequence[str]) -> int:
    """Run one verb and return its exit code.

    Args:
        verb: One of ``modules``.
        argv: What stands behind it on the command line.
    """
    module = importlib.import_module(f"{__name__}.{modules()[verb]}")
    parser = argparse.ArgumentParser(prog=f"mlc-jitd {verb}", description=(module.__doc__ or "").partition("\n")[0])
    module.add(parser)
    arguments = parser.parse_args(argv)
    try:
        _say({"result": module.run(arguments, lambda value: _say({"progress": value}))})
    except JitError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who asked is gone: no second complaint
        return 1
    except Exception as error:
        logger.exception("`mlc-jitd %s` failed", verb)
        text = f"`mlc-jitd {verb}` failed: {type(error).__name__}: {error}"
        return _failed(JitError(text, reason="internal", remedy="Please report this."))
    return 0


def _failed(error: JitError) -> int:
    _say({"error": error.kind, "message": error.message, **error.facts()})
    return 1


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
