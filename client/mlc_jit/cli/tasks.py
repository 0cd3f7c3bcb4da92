"""Several requests at the same time, with progress, for the verbs that keep what they get."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit import api, cli, fallback
from mlc_jit import messages as m
from mlc_jit.cli import compile_
from mlc_jit.errors import JitError
from mlc_jit.progress import Board

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


AT_A_TIME = 8


@dataclass(slots=True)
class Wanted:
    """One request, and what became of it.

    Attributes:
        label: For people.
        make: Makes the request, or raises a JitError.
        how: How the entry is to be kept.
    """

    label: str
    make: Callable[[], m.JitRequest]
    how: str = "pin"
    request: m.JitRequest | None = None
    answer: m.Result | None = None
    error: JitError | None = None
    waited: float = 0.0


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is asked of a model."""
    parser.add_argument("--device", default="auto", help="cuda:0, cpu, android, a target as JSON, … (default: auto)")
    parser.add_argument("--overrides", default="", metavar="A=1;B=2", help="compile-time overrides, as mlc_llm's")
    parser.add_argument("--opt", help="O0 to O3, or flags (default: O2)")
    parser.add_argument("--system-lib-prefix", help="symbol prefix of a static library")


def maker(arguments: argparse.Namespace, model: str, *, prewarm: bool) -> Callable[[], m.JitRequest]:
    """Makes the request for a model with these arguments."""

    def make() -> m.JitRequest:
        overrides = compile_.parse_overrides(arguments.overrides)
        if arguments.opt:
            overrides["opt"] = arguments.opt
        return api.make_request(
            model, overrides, arguments.device, arguments.system_lib_prefix, policy=api.jit_policy(), prewarm=prewarm
        )

    return make


def ask_all(wanted: Sequence[Wanted], *, quiet: bool, daemon: bool = True) -> None:
    """Ask for all of them, a few at a time; what became of each stands in it afterwards.

    Args:
        wanted: What is asked for.
        quiet: Show no progress.
        daemon: Whether a daemon is asked, and started if need be; else each is looked up and compiled in a process
            of its own, one after the other.
    """
    ready: list[Wanted] = []
    for each in wanted:
        try:
            each.request = each.make()
            ready.append(each)
        except JitError as error:
            each.error = error
    with Board() as board, compile_._above(board):  # noqa: SLF001 - verbs of one command line
        for start in range(0, len(ready), AT_A_TIME):
            _ask(ready[start : start + AT_A_TIME], None if quiet else board, daemon=daemon)


def _ask(wanted: Sequence[Wanted], board: Board | None, *, daemon: bool) -> None:
    began = time.monotonic()
    shows = [board.add(each.label) if board is not None else None for each in wanted]

    def ended(place: int, outcome: m.Result | JitError) -> None:
        each, show = wanted[place], shows[place]
        each.waited = time.monotonic() - began
        if isinstance(outcome, JitError):
            each.error = outcome
        else:
            each.answer = outcome
        if show is not None:
            show.end("failed" if each.error else "done")

    requests = [each.request for each in wanted if each.request is not None]
    if daemon:
        api.ask_all(requests, on_progress=shows, on_end=ended, cancel_alone=True)
        return
    for place, (request, show) in enumerate(zip(requests, shows, strict=True)):
        try:
            ended(place, fallback.once(dataclasses.replace(request, progress=show is not None), show or _ignore))
        except JitError as error:
            ended(place, error)


def worst(errors: Sequence[JitError]) -> int:
    """The exit code for what failed."""
    codes = {cli.exit_code(error) for error in errors}
    return next((code for code in compile_.WORST_FIRST if code in codes), 0)


def _ignore(_progress: m.Progress) -> None:
    return
