"""``mlc-jit compile MODEL...``: the libraries' paths on standard output, and nothing else there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mlc_jit import api, cli, log
from mlc_jit import messages as m
from mlc_jit.errors import DaemonUnavailableError, JitError, OverrideInvalidError
from mlc_jit.progress import Board

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

Verbs = Any  # argparse's sub-parsers have no public type

WORST_FIRST = (1, 2, 4, 3)


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "compile",
        help="compile model libraries, or take them from the cache, and print their paths",
        description=(
            "Compile model libraries, or take them from the cache. Several are asked for at the same time. Prints "
            "their paths on standard output, one per line in the order given; what failed has none."
        ),
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="folder that holds mlc-chat-config.json")
    parser.add_argument("--device", default="auto", help="cuda:0, cpu, android, a target as JSON, … (default: auto)")
    parser.add_argument("--overrides", default="", metavar="A=1;B=2", help="compile-time overrides, as mlc_llm's")
    parser.add_argument("--opt", help="O0 to O3, or flags (default: O2)")
    parser.add_argument("--policy", choices=get_args(m.Policy), help="default: MLC_JIT_POLICY, else ON")
    parser.add_argument("--system-lib-prefix", help="symbol prefix of a static library")
    parser.add_argument(
        "--json", action="store_true", help="print all that is known of the result as JSON; a list if there are several"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Task:
    """One of the models, and what became of it."""

    model: str
    label: str
    answer: m.Result | None = None
    error: JitError | None = None
    waited: float = 0.0

    def take(self, outcome: m.Result | JitError, waited: float) -> None:
        """It has ended."""
        self.waited = round(waited, 4)
        if isinstance(outcome, JitError):
            self.error = outcome
        else:
            self.answer = outcome


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    overrides = parse_overrides(arguments.overrides)
    if arguments.opt:
        overrides["opt"] = arguments.opt
    policy = arguments.policy or api.jit_policy()
    began = time.monotonic()
    tasks = [Task(model, label) for model, label in zip(arguments.models, labels(arguments.models), strict=True)]
    requests: dict[int, m.JitRequest] = {}
    for place, task in enumerate(tasks):
        try:
            requests[place] = api.make_request(
                task.model, overrides, arguments.device, arguments.system_lib_prefix, policy=policy
            )
        except JitError as error:
            task.error = error
    asked = [tasks[place] for place in requests]
    with Board() as board, _above(board):
        shows = [None if arguments.quiet else board.add(task.label) for task in asked]

        def ended(place: int, outcome: m.Result | JitError) -> None:
            asked[place].take(outcome, time.monotonic() - began)
            show = shows[place]
            if show is not None:
                show.end("failed" if isinstance(outcome, JitError) else "done")

        api.ask_all(list(requests.values()), on_progress=shows, on_end=ended, cancel_alone=True)
    return _report(tasks, as_json=arguments.json)


def _report(tasks: Sequence[Task], *, as_json: bool) -> int:
    """Show what became of the models; the exit code."""
    if len(tasks) == 1 and tasks[0].error is not None:
        raise tasks[0].error
    if as_json:
        facts = [_facts(task, several=len(tasks) > 1) for task in tasks]
        print(json.dumps(facts if len(tasks) > 1 else facts[0], indent=1))
    codes = set()
    for task in tasks:
        if task.error is not None:
            codes.add(cli.exit_code(task.error))
            if not as_json:
                cli.show_error(task.error, about=task.label)
        elif task.answer is not None and not as_json:
            print(task.answer.path)
        elif task.answer is None:
            raise DaemonUnavailableError(f"Nothing became of {task.label}.")
    return next((code for code in WORST_FIRST if code in codes), 0)


def _facts(task: Task, *, several: bool) -> dict[str, Any]:
    which = {"model": task.model} if several else {}
    if task.error is not None:
        return {**which, **cli.plain_error(task.error), "waited": task.waited}
    assert task.answer is not None
    facts = {name: value for name, value in dataclasses.asdict(task.answer).items() if name != "id"}
    return {**which, **facts, "waited": task.waited}


@contextlib.contextmanager
def _above(board: Board) -> Iterator[None]:
    """What the client logs meanwhile stands above the bars instead of in them."""

    class Above(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            board.say(f"mlc-jit: {record.getMessage()}")

    handler = Above(logging.WARNING)
    log.logger().addHandler(handler)
    try:
        yield
    finally:
        log.logger().removeHandler(handler)


def labels(models: Sequence[str]) -> list[str]:
    """A short name for each model: its folder's, or the whole path where two folders have the same."""
    names = [Path(os.path.abspath(model)).name or model for model in models]  # noqa: PTH100 - `.` has a name, too
    return [name if names.count(name) == 1 else model for name, model in zip(names, models, strict=True)]


def parse_overrides(text: str) -> dict[str, int | bool | str]:
    """``a=1;b=2`` as a dict; whole numbers and true/false become values, the rest stays text for the daemon to judge.

    Raises:
        OverrideInvalidError: A piece is not ``name=value``, or a name comes twice.
    """
    found: dict[str, int | bool | str] = {}
    for piece in filter(None, (each.strip() for each in text.split(";"))):
        name, equals, value = (each.strip() for each in piece.partition("="))
        if not equals or not name:
            raise OverrideInvalidError(f"The override {piece!r} is not name=value.", remedy="Write a=1;b=2.")
        if name in found:
            raise OverrideInvalidError(f"The override {name} is given twice.", remedy="Give it once.")
        if value.lower() in ("true", "false"):
            found[name] = value.lower() == "true"
        else:
            digits = value.removeprefix("-")
            found[name] = int(value) if digits.isascii() and digits.isdigit() else value
    return found
