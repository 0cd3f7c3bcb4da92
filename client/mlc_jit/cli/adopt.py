"""``mlc-jit adopt``: what upstream's own ``jit()`` left behind, and which models it belongs to. Changes nothing.

It makes no entries: which compiler made such a file is written nowhere, and an entry that claims one would be a lie
that the next upgrade can't see through.
"""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import api
from mlc_jit.cli.asking import duration, size, table
from mlc_jit.cli.compile_ import parse_overrides
from mlc_jit.cli.explain import ask
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

_WIDEST, _NARROWEST = 110, 40


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "adopt",
        help="list the libraries that upstream's own jit() left in the cache, and which models they belong to",
        description=(
            "List the libraries under upstream's names in the cache. For each MODEL the compiler's own hash says which "
            "of them is its library. Changes nothing: which compiler made them is not known, so none becomes an entry."
        ),
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="folder that holds mlc-chat-config.json")
    parser.add_argument("--device", action="append", help="as upstream was asked; may be repeated (default: auto)")
    parser.add_argument("--overrides", default="", metavar="A=1;B=2", help="as upstream was asked")
    parser.add_argument("--opt", help="as upstream was asked")
    parser.add_argument("--all", action="store_true", help="copies of mlc-jitd's own entries, too")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = upkeep("adopt")
    overrides = parse_overrides(arguments.overrides)
    if arguments.opt:
        overrides["opt"] = arguments.opt
    devices = arguments.device or ["auto"]
    report["asked"] = [_resolved(model, device, overrides) for model in arguments.models for device in devices]
    owners = {name: each for each in reversed(report["asked"]) for name in each["files"]}
    for file in report["files"]:
        owner = owners.get(file["file"])
        file["model"] = owner["model"] if owner else ""
        file["device"] = owner["files"][file["file"]] if owner else ""
    if not arguments.all:
        report["files"] = [file for file in report["files"] if file["made_by"] != "mlc-jitd"]
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(report, now=time.time(), width=shutil.get_terminal_size().columns))
    return 0


def _resolved(model: str, device: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Where upstream would look for a model, and whether this cache has an entry for it."""
    explained = ask(api.make_request(model, overrides, device, None, policy="READONLY"))
    return {
        "model": model,
        "device": device,
        "key": explained.key,
        "cached": explained.hit,
        "files": {name.file: name.device for name in explained.upstream},
    }


def screen(report: dict[str, Any], *, now: float, width: int) -> str:
    """The report as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    files = report["files"]
    lines = []
    if files:
        lines.append(table([["FILE", "AGE", "SIZE", "OWNER", "MADE BY", "MODEL"], *(_cells(f, now) for f in files)]))
        for file in files:
            if file["doubt"]:
                lines += _wrapped(f"{file['doubt']}: it is never handed out. {file['remedy']}".rstrip(), width)
    for asked in report["asked"]:
        if not any(file["file"] in asked["files"] for file in files):
            lines += _wrapped(f"Upstream left nothing for {asked['model']} on {asked['device']}.", width)
    return "\n".join([*lines, *([""] if lines else []), *_wrapped(_conclusion(report), width)])


def _cells(file: dict[str, Any], now: float) -> list[str]:
    made_by = f"mlc-jitd, {file['key'][:12]}" if file["made_by"] == "mlc-jitd" else "not known"
    return [
        f"{file['file'][:12]}…{Path(file['file']).suffix}",
        duration(max(0.0, now - file["modified"])),
        size(file["size"]),
        file["owner"],
        made_by,
        f"{Path(file['model']).name} ({file['device']})" if file["model"] else "?",
    ]


def _conclusion(report: dict[str, Any]) -> str:
    unknown = [file for file in report["files"] if file["made_by"] == "unknown"]
    if not unknown:
        return f"Upstream's own jit() left nothing in {report['folder']}."
    what = f"{len(unknown)} {'library' if len(unknown) == 1 else 'libraries'}"
    return (
        f"{what} of upstream's own jit(), {size(sum(file['size'] for file in unknown))}, in {report['folder']}. Which "
        "compiler made them is written nowhere, so none becomes an entry: they are handed out under "
        "MLC_JIT_POLICY=READONLY alone, with a warning, where there is no entry. `mlc-jit compile MODEL` makes one; "
        "after that nobody needs them."
    )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
