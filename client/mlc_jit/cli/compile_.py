"""``mlc-jit compile MODEL``: the library's path on standard output, and nothing else there."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mlc_jit import api
from mlc_jit import messages as m
from mlc_jit.errors import OverrideInvalidError
from mlc_jit.progress import ProgressLine

if TYPE_CHECKING:
    import argparse

Verbs = Any  # argparse's sub-parsers have no public type


def add(verbs: Verbs) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "compile",
        help="compile a model library, or take it from the cache, and print its path",
        description="Compile a model library, or take it from the cache. Prints its path on standard output.",
    )
    parser.add_argument("model", help="folder that holds mlc-chat-config.json")
    parser.add_argument("--device", default="auto", help="cuda:0, cpu, android, a target as JSON, … (default: auto)")
    parser.add_argument("--overrides", default="", metavar="A=1;B=2", help="compile-time overrides, as mlc_llm's")
    parser.add_argument("--opt", help="O0 to O3, or flags (default: O2)")
    parser.add_argument("--policy", choices=get_args(m.Policy), help="default: MLC_JIT_POLICY, else ON")
    parser.add_argument("--system-lib-prefix", help="symbol prefix of a static library")
    parser.add_argument("--json", action="store_true", help="print all that is known of the result as JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    overrides = parse_overrides(arguments.overrides)
    if arguments.opt:
        overrides["opt"] = arguments.opt
    request = api.make_request(
        arguments.model,
        overrides,
        arguments.device,
        arguments.system_lib_prefix,
        policy=arguments.policy or api.jit_policy(),
    )
    began = time.monotonic()
    with ProgressLine(Path(request.model_path).name) as line:
        answer = api.ask(request, on_progress=None if arguments.quiet else line, cancel_alone=True)
    if arguments.json:
        facts = {name: value for name, value in dataclasses.asdict(answer).items() if name != "id"}
        print(json.dumps({**facts, "waited": round(time.monotonic() - began, 4)}, indent=1))
    else:
        print(answer.path)
    return 0


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
