"""Verify the libraries of the cache: digests, manifests, permissions, leftovers.

The verb. What is looked at is in ``entries`` (one entry after the other) and ``folders`` (what they lie in). Without
``--repair`` nothing is changed. It works beside a running daemon: an entry that is published or collected meanwhile is
whole or gone, never damaged, and what is set aside is so under its key's lock.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from mlc_jit.errors import RequestError
from mlc_jit.locations import cache_home
from mlc_jitd.store import Store
from mlc_jitd.upkeep.verify import again, entries, folders

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell
    from mlc_jitd.upkeep.verify.finding import Finding

TELL_SECONDS = 0.25


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("keys", nargs="*", help="keys, or their beginnings; all of them if none is given")
    parser.add_argument("--repair", action="store_true", help="move what is damaged to quarantine")
    parser.add_argument("--recompile", action="store_true", help="compile again, and compare what is computed")


def run(arguments: argparse.Namespace, tell: Tell) -> Any:
    """Look, and repair where that was asked for.

    Raises:
        RequestError: A key is none, or none of this cache; or everything was to be compiled again.
        StoreError: The cache's folder can't be looked at, or a repair is refused.
    """
    began = time.monotonic()
    if arguments.recompile and not arguments.keys:
        raise RequestError("To compile everything again takes hours.", remedy="Name the keys: verify KEY --recompile.")
    idle = not arguments.recompile and step_back()
    home = cache_home()
    store = Store(home)
    trouble = list(folders.troubles(store.layout))
    if arguments.repair:
        store.open()
    keys = store.keys()
    if arguments.keys:
        keys = entries.chosen(arguments.keys, keys)
    tally = entries.Tally(of=len(keys))
    found: list[Finding] = []
    told = 0.0
    for key in keys:
        found += entries.examine(store, key, tally, repair=arguments.repair)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            tell(dataclasses.asdict(tally))
    took = round(time.monotonic() - began, 3)
    if not arguments.keys:
        trouble += folders.leftovers(store.layout, repaired=arguments.repair)
    return {
        "home": str(home),
        "entries": tally.done,
        "whole": tally.whole,
        "bytes": tally.bytes,
        "seconds": took,
        "idle_io": idle,
        "recompiled": [each for key in keys if (each := again.prove(store, key, tell))] if arguments.recompile else [],
        "findings": [dataclasses.asdict(each) for each in (*trouble, *found)],
    }


def step_back() -> bool:
    """Read and compute only when nobody else wants to; whether the kernel takes reading down too."""
    os.nice(19)
    if sys.platform != "linux":
        return False
    try:
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    except (OSError, psutil.Error):
        return False
    return True
