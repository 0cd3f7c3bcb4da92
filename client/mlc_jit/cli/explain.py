"""``mlc-jit explain MODEL``: hit or miss, and why. Compiles nothing, and needs no running daemon."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import api, fallback
from mlc_jit import messages as m
from mlc_jit.cli.asking import answer, duration
from mlc_jit.cli.compile_ import parse_overrides
from mlc_jit.errors import DaemonUnavailableError

if TYPE_CHECKING:
    import argparse

_PART, _WIDEST, _NARROWEST = 13, 110, 40

ALWAYS = frozenset({"model", "target", "toolchain"})
"""Parts that are shown whatever they say; the others where something was asked for."""

UNSAID = frozenset({"none", "O2"})

HOLDS = {
    "nothing": "nothing there",
    "entry": "a copy of this library",
    "other-entry": "a copy of another entry, which upstream's hash takes for this one",
    "unknown": "a file that mlc-jitd did not make",
}


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "explain",
        help="say whether a model's library is in the cache, and if not, what differs from the nearest one that is",
        description="Say whether a model's library is in the cache, and if not, why. Compiles nothing; exit code 0.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder that holds mlc-chat-config.json")
    parser.add_argument("--device", default="auto", help="as of `compile` (default: auto)")
    parser.add_argument("--overrides", default="", metavar="A=1;B=2", help="as of `compile`")
    parser.add_argument("--opt", help="as of `compile`")
    parser.add_argument("--system-lib-prefix", help="as of `compile`")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    overrides = parse_overrides(arguments.overrides)
    if arguments.opt:
        overrides["opt"] = arguments.opt
    request = api.make_request(
        arguments.model, overrides, arguments.device, arguments.system_lib_prefix, policy="READONLY"
    )
    explained = ask(request)
    if arguments.json:
        facts = {name: value for name, value in dataclasses.asdict(explained).items() if name != "id"}
        print(json.dumps(facts, indent=1))
    else:
        print(screen(explained, width=shutil.get_terminal_size().columns, now=time.time()))
    return 0


def ask(request: m.JitRequest) -> m.Explained:
    """A running daemon's explanation, else that of a process of its own."""
    try:
        return answer(lambda id_: m.Explain(id=id_, request=request), m.Explained)
    except DaemonUnavailableError as error:
        if error.reason != "down":
            raise
    return fallback.ask_once(m.Explain(request=request), m.Explained)


def screen(explained: m.Explained, *, width: int, now: float) -> str:
    """The explanation as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    lines = _row("HIT" if explained.hit else "MISS", _sentence(explained.words), width)
    if explained.remedy:
        lines += _row("", f"-> {explained.remedy}", width)
    lines += _row("key", explained.key, width)
    if explained.path:
        lines.append(f"{'library':<{_PART}}{explained.path}")  # whole, to be copied
    lines.append("")
    lines += _parts(explained, width)
    if not explained.hit:
        for near in explained.nearest:
            lines += ["", *_near(near, width, now)]
    if explained.upstream:
        lines.append("")
        for name in explained.upstream:
            lines += _row("upstream", f"{name.file}: {HOLDS.get(name.holds, name.holds)} ({name.device})", width)
    return "\n".join(lines)


def _parts(explained: m.Explained, width: int) -> list[str]:
    lines: list[str] = []
    for part in explained.parts:
        if part.name in ALWAYS or (part.name != "format" and part.words not in UNSAID):
            lines += _row(part.name, part.words, width)
    return lines


def _near(near: m.NearReport, width: int, now: float) -> list[str]:
    age = duration(max(0.0, now - near.created))
    lines = _row("entry", f"{near.key[:12]}, {age} old, {near.toolchain}, for {Path(near.model).name or '?'}", width)
    for difference in near.differences:
        lines += _row(f"  {difference.part}", difference.words, width)
    return lines


def _row(what: str, text: str, width: int) -> list[str]:
    """One thing and its text, wrapped behind the column of things."""
    return textwrap.wrap(
        f"{what:<{_PART}}{text}", width, subsequent_indent=" " * _PART, break_long_words=False, break_on_hyphens=False
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
