"""``mlc-jit pin MODEL...|KEY...``: entries that are never collected, and follow their model's config."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jit import cli
from mlc_jit.cli import tasks
from mlc_jit.cli.compile_ import labels
from mlc_jit.cli.keeping import is_key, keep
from mlc_jit.errors import JitError

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "pin",
        help="keep libraries in the cache: never collected, compiled again when their model changes",
        description=(
            "Keep libraries in the cache. A pinned one is never collected. One that is pinned by its model is compiled "
            "first if need be; when the model's config changes, the new configuration is compiled in the background, "
            "and the pin moves to it."
        ),
    )
    parser.add_argument(
        "what", metavar="MODEL|KEY", nargs="+", help="folder that holds mlc-chat-config.json, or a key or its beginning"
    )
    tasks.add_request_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    models = [word for word in arguments.what if not is_key(word)]
    wanted = [
        tasks.Wanted(label, tasks.maker(arguments, model, prewarm=False))
        for model, label in zip(models, labels(models), strict=True)
    ]
    tasks.ask_all(wanted, quiet=arguments.quiet)
    by_model = dict(zip(models, wanted, strict=True))
    rows, errors = [], []
    for word in arguments.what:
        try:
            kept = _pin(word, by_model.get(word))
        except JitError as error:
            errors.append(error)
            rows.append({"what": word, **cli.plain_error(error)})
            if not arguments.json:
                cli.show_error(error, about=word if len(arguments.what) > 1 else "")
        else:
            rows.append({"what": word, "key": kept})
            if not arguments.json:
                print(f"Pinned {kept[:12]} ({word}).")
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return tasks.worst(errors)


def _pin(word: str, asked: tasks.Wanted | None) -> str:
    if asked is None:
        return keep(key=word, how="pin").keys[0]
    if asked.error is not None:
        raise asked.error
    return keep(ask=asked.request, how="pin").keys[0]
