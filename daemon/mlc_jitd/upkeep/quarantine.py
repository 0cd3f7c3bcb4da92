"""List the damaged entries that were set aside: which, why, when, how large; or remove them."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import RequestError, StoreUnwritableError
from mlc_jit.locations import cache_home
from mlc_jitd.store import Layout
from mlc_jitd.store.quarantine import Aside, listing
from mlc_jitd.store.staging import remove_tree

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell

_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("keys", nargs="*", help="keys, or their beginnings; all if none is given")
    parser.add_argument("--clear", action="store_true", help="remove them")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Do it.

    Raises:
        RequestError: A key is none.
        StoreUnwritableError: Something can't be removed.
    """
    for prefix in arguments.keys:
        if _PREFIX.fullmatch(prefix) is None:
            raise RequestError(f"{prefix[:80]!r} is not the beginning of a key: those are 64 hex digits.")
    layout = Layout.of(cache_home())
    found = [
        each
        for each in listing(layout)
        if not arguments.keys or any(each.key.startswith(prefix) for prefix in arguments.keys)
    ]
    if arguments.clear:
        _clear(found, layout)
    return {
        "folder": str(layout.quarantine),
        "cleared": arguments.clear,
        "entries": [dataclasses.asdict(each) for each in found],
    }


def _clear(found: list[Aside], layout: Layout) -> None:
    left = [each.path for each in found if not remove_tree(layout.quarantine / each.name)]
    if left:
        raise StoreUnwritableError(
            f"{len(left)} of {len(found)} damaged entries can't be removed: {left[0]}.",
            remedy=f"Remove them as their owner: rm -rf {layout.quarantine}/*",
            reason="denied",
        )
