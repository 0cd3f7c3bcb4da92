"""``mlc-jit list``: the entries of the cache, newest first."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.api import silence_seconds
from mlc_jit.channel import query
from mlc_jit.cli.asking import duration, size, table
from mlc_jit.locations import locate

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("list", help="list the libraries in the cache, newest first")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    entries: list[m.EntryReport] = []
    for reply in query(locate().socket, lambda id_: m.ListRequest(id=id_), silence=silence_seconds()):
        if isinstance(reply, m.Listing):
            entries += reply.entries
            if not reply.more:
                break
    if arguments.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
    elif not entries:
        print("The cache is empty.")
    else:
        print(screen(entries, now=time.time()))
    return 0


def screen(entries: list[m.EntryReport], *, now: float) -> str:
    """The entries as a table."""
    layered = any(entry.layer for entry in entries)
    marked = any(entry.pinned or entry.stale is not None for entry in entries)
    more = [*(["KEPT"] if marked else []), *(["LAYER"] if layered else [])]
    rows = [["KEY", "AGE", "SIZE", "COMPILED IN", "DEVICE", "MODEL", "TOOLCHAIN", *more]]
    rows += [
        [
            entry.key[:12],
            duration(max(0.0, now - entry.created)),
            size(entry.size),
            duration(entry.seconds),
            entry.device if len(entry.device) <= 20 else entry.device[:19] + "…",  # noqa: PLR2004 - a column's width
            Path(entry.model).name or "?",
            entry.toolchain + (" (degraded)" if entry.degraded else ""),
            *(["pinned" if entry.pinned else "stale" if entry.stale is not None else ""] if marked else []),
            *([entry.layer] if layered else []),
        ]
        for entry in entries
    ]
    return table(rows, right=frozenset({1, 2, 3}))
