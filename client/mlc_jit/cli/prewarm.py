"""``mlc-jit prewarm FILE.toml|MODEL...``: what is listed is in the cache afterwards; else the exit code tells."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import api, cli, prewarming
from mlc_jit.cli import remote, tasks
from mlc_jit.cli.asking import duration, table
from mlc_jit.cli.compile_ import labels
from mlc_jit.cli.keeping import keep
from mlc_jit.errors import JitError, RequestError, StoreError

if TYPE_CHECKING:
    import argparse
    from typing import Literal


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "prewarm",
        help="have libraries compiled ahead of time, from a list or for models",
        description=(
            "Have libraries compiled ahead of time: those of a TOML list (docs/watching.md), or of models, with the "
            "options below. Compiles go behind those that somebody waits for. What is there already costs nothing, so "
            "it may be run again and again. When a model's config changes, a daemon compiles the new configuration in "
            "the background. No GPU is needed for a target that is given as JSON."
        ),
    )
    parser.add_argument("what", metavar="FILE.toml|MODEL", nargs="+", help="a list, or folders of models")
    tasks.add_request_arguments(parser)
    parser.add_argument("--no-daemon", action="store_true", help="neither ask nor start one (image builds)")
    parser.add_argument(
        "--remote", action="store_true", help="have them in the bucket of the fleet too; exit code 1 where one is not"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    began = time.monotonic()
    wanted = _wanted(arguments)
    tasks.ask_all(wanted, quiet=arguments.quiet, daemon=not arguments.no_daemon)
    for each in wanted:
        if each.answer is not None and each.answer.key:
            how: Literal["prewarm", "pin"] = "pin" if each.how == "pin" else "prewarm"
            try:
                keep(ask=each.request, how=how, daemon=not arguments.no_daemon)
            except JitError as error:
                each.error = error
    if arguments.remote:
        _put(wanted)
    if arguments.json:
        print(json.dumps([_facts(each) for each in wanted], indent=1))
    else:
        _show(wanted, time.monotonic() - began)
    return tasks.worst([each.error for each in wanted if each.error is not None])


def _put(wanted: list[tasks.Wanted]) -> None:
    """Have what was made in the bucket, by now: a daemon writes there behind everybody's back."""
    keys = {each.answer.key: each for each in wanted if each.answer is not None and each.answer.key and not each.error}
    for done in remote.push(list(keys)):
        if done["what"] not in {"written", "there"}:
            why = f"{done['what']}: {done['why']}".removesuffix(".")
            keys[done["key"]].error = StoreError(f"It is not in the bucket: {why}.", reason="remote", key=done["key"])


def _wanted(arguments: argparse.Namespace) -> list[tasks.Wanted]:
    models = [word for word in arguments.what if not _is_list(word)]
    given = arguments.device != "auto" or arguments.overrides or arguments.opt or arguments.system_lib_prefix
    if given and not models:
        raise RequestError(
            "--device, --overrides, --opt and --system-lib-prefix say what is asked of models on the command line.",
            remedy="Write these into the list.",
        )
    names = dict(zip(models, labels(models), strict=True))
    found = []
    for word in arguments.what:
        if word in names:
            found.append(tasks.Wanted(names[word], tasks.maker(arguments, word, prewarm=True), "prewarm"))
            continue
        for item in prewarming.read(Path(word)):
            make = partial(item.request, api.jit_policy())
            found.append(tasks.Wanted(item.label, make, "pin" if item.pin else "prewarm"))
    return found


def _is_list(word: str) -> bool:
    return word.endswith(".toml") and not Path(word).is_dir()


def _facts(each: tasks.Wanted) -> dict[str, Any]:
    facts = {"what": each.label, "keep": each.how, "waited": round(each.waited, 4)}
    if each.error is not None:
        return {**facts, **cli.plain_error(each.error)}
    assert each.answer is not None
    return {**facts, "key": each.answer.key, "path": each.answer.path, "source": each.answer.source}


def _show(wanted: list[tasks.Wanted], seconds: float) -> None:
    rows = []
    for each in wanted:
        if each.error is not None:
            cli.show_error(each.error, about=each.label)
        elif each.answer is not None:
            state = "cached" if each.answer.source == "hit" else "compiled"
            took = "" if each.answer.source == "hit" else duration(each.answer.seconds)
            rows.append([each.answer.key[:12], state, took, each.label + (" (pinned)" if each.how == "pin" else "")])
    if rows:
        print(table(rows, right=frozenset({2})))
    compiled = sum(row[1] == "compiled" for row in rows)
    failed = len(wanted) - len(rows)
    words = [f"{len(rows) - compiled} cached", f"{compiled} compiled", *([f"{failed} failed"] if failed else [])]
    print(f"{', '.join(words)} in {duration(seconds)}.")
