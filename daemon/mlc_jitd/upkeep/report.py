"""Write one page with plots of what was compiled, of hits and misses, and of what the cache holds."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.locations import cache_home
from mlc_jitd.observe.report import Entry, facts, page
from mlc_jitd.store import Store
from mlc_jitd.upkeep.history import Known
from mlc_jitd.upkeep.trace import written

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mlc_jitd.upkeep import Tell


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("-o", "--output", required=True, help="the file to write")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Do it.

    Raises:
        StoreUnwritableError: The history can't be read, or the file not be written.
    """
    known = Known.read(host=False)
    home = cache_home()
    found = facts(
        known.ended,
        known.hours(),
        _entries(home),
        title=f"{home} on {platform.node()}",
        now=time.time(),
    )
    payload = page(found).encode()
    return {
        "file": written(Path(arguments.output), payload),
        "size": len(payload),
        "compiles": len(found.jobs),
        "libraries": found.entries,
    }


def _entries(home: Path) -> Iterator[Entry]:
    for manifest in Store(home).manifests():
        facts_of = manifest.toolchain
        name = f"{facts_of.name} {facts_of.versions.get(facts_of.name, '')}".rstrip()
        yield Entry(model=manifest.model.path, toolchain=name, size=manifest.size, seconds=manifest.compile.seconds)
