"""``mlc-jit export``: entries of the cache as one file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import size
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "export",
        help="write libraries of the cache to one file, for hosts without a network and for images",
        description=(
            "Write libraries of the cache, with their manifests, to one plain tar file. Equal entries give equal "
            "bytes. `mlc-jit import` takes it; unpacked, it is a layer."
        ),
    )
    parser.add_argument("what", metavar="KEY|MODEL", nargs="*", help="keys, or their beginnings, or model folders")
    parser.add_argument("--all", action="store_true", help="every library of the cache and its layers")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    words = [*(["--all"] if arguments.all else []), "-o", arguments.output, "--", *arguments.what]
    report = upkeep("export", *words)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    count = len(report["entries"])
    print(f"{count} {'library' if count == 1 else 'libraries'}, {size(report['size'])}.", file=sys.stderr)
    print(report["file"])
    return 0
