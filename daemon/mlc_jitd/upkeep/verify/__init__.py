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
from mlc_jitd.config import Settings
from mlc_jitd.lending import leases_here
from mlc_jitd.store import Layer, Store, layers_of
from mlc_jitd.upkeep.verify import again, entries, folders
from mlc_jitd.upkeep.verify.finding import Finding

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mlc_jitd.upkeep import Tell

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
    store = Store(home, leased=lambda: leases_here().held())
    lower = [Layer(each) for each in layers_of(Settings.load(strict=False).layers)]
    trouble = list(folders.troubles(store.layout))
    if arguments.repair:
        store.open()
    mine = store.keys()
    named: list[str] | None = None
    if arguments.keys:
        named = entries.chosen(arguments.keys, sorted({*mine, *(key for each in lower for key in each.keys())}))  # noqa: SIM118
        mine = [key for key in mine if key in named]
    tally = entries.Tally(of=len(mine))
    found: list[Finding] = []
    told = 0.0
    for key in mine:
        found += entries.examine(store, key, tally, repair=arguments.repair)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            tell(dataclasses.asdict(tally))
    if named is None:
        trouble += folders.leftovers(store.layout, repaired=arguments.repair)
    for layer in lower:
        found += in_layer(layer, tally, tell, None if named is None else set(named) - set(mine))
    took = round(time.monotonic() - began, 3)
    proofs = []
    for key in named or [] if arguments.recompile else []:
        places = [store, *(each.store for each in lower if each.look().state == "ok")]
        holder = next((each for each in places if each.manifest(key)), store)
        proofs.append(again.prove(holder, key, tell, memory=store.layout.library / ".identity"))
    return {
        "home": str(home),
        "entries": tally.done,
        "whole": tally.whole,
        "bytes": tally.bytes,
        "seconds": took,
        "idle_io": idle,
        "recompiled": [each for each in proofs if each],
        "findings": [dataclasses.asdict(each) for each in (*trouble, *found)],
    }


def in_layer(layer: Layer, tally: entries.Tally, tell: Tell, only: set[str] | None) -> Iterator[Finding]:
    """The same for a read-only cache: how it is, and its entries, all or those named; nothing is repaired there."""
    state = layer.look()
    if state.state != "ok":
        if only is not None:
            return
        yield Finding(
            kind="layer",
            level="note" if state.state == "missing" else "problem",
            found=f"the layer {state.path} is {state.state}: {state.detail}",
            remedy=state.remedy,
            path=state.path,
        )
        return
    keys = [key for key in layer.keys() if only is None or key in only]  # noqa: SIM118
    tally.of += len(keys)
    for number, key in enumerate(keys):
        for finding in entries.examine(layer.store, key, tally, repair=False):
            if finding.kind != "unsealed":  # whoever makes the layer decides
                yield dataclasses.replace(finding, remedy=_READ_ONLY if finding.kind == "damaged" else finding.remedy)
        if number % 50 == 0:
            tell(dataclasses.asdict(tally))


_READ_ONLY = (
    "It is passed over, and compiled into the home when it is asked for. A layer is repaired by whoever makes it."
)


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
