"""``mlc-jit unpin MODEL...|KEY...``: what was pinned or pre-warmed is kept no longer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.keeping import absolute, is_key, keep

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "unpin",
        help="let go of what was pinned or pre-warmed",
        description=(
            "Let go of what was pinned or pre-warmed: all of a model's, or the one with a key. It stays in the cache "
            "until it is collected as any other. A model folder need not exist any more."
        ),
    )
    parser.add_argument("what", metavar="MODEL|KEY", nargs="+", help="a model folder, or a key or its beginning")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    rows = []
    for word in arguments.what:
        kept = keep(key=word) if is_key(word) else keep(folder=absolute(word))
        rows.append({"what": word, "keys": list(kept.keys)})
        if not arguments.json:
            shown = ", ".join(key[:12] for key in kept.keys)
            print(f"Let go of {shown} ({word})." if kept.keys else f"Nothing of {word} was pinned or pre-warmed.")
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return 0
