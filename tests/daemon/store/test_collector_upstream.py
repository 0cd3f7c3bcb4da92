"""Risk: a collection leaves the copies of what it takes, or takes upstream's own files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from mlc_jitd.store import Collector, Entry, Found, Store, Uses
from mlc_jitd.store.collection import Rules
from mlc_jitd.store.collector import COPYING
from mlc_jitd.store.leases import Leases
from mlc_jitd.store.upstream import LOCK_SECONDS, UpstreamNames

if TYPE_CHECKING:
    from pathlib import Path

Publish = Callable[..., Entry]
KEY, OTHER = "ab" * 32, "cd" * 32


def test_copies_go_with_their_entry(store: Store, publish: Publish, tmp_path: Path) -> None:
    first, second = publish(store, b"x" * 1000), publish(store, b"y" * 1000, OTHER)
    names = UpstreamNames(store.layout)
    for number, entry in enumerate((first, second)):
        names.place(f"{number:032x}", "so", entry)
    theirs = store.layout.library / f"{'f' * 32}.so"
    theirs.write_bytes(b"theirs" * 1000)
    os.utime(theirs, (1, 1))
    uses = Uses(store.layout.used)
    collector = Collector(store, Leases(tmp_path / "leases"), uses, clock=lambda: first.manifest.created + 1e9)
    done = collector.collect(Rules(max_size=2500))
    assert len(done.removed) == 1
    (kept,) = store.manifests()
    assert [copy.key for copy in names.names()] == [kept.key]
    assert theirs.exists()


@pytest.mark.timeout(20)
def test_nobody_waits_with_locked_keys_for_who_makes_copies(store: Store, publish: Publish, tmp_path: Path) -> None:
    copied, plain = publish(store, b"x" * 1000), publish(store, b"y" * 1000, OTHER)
    UpstreamNames(store.layout).place("0" * 32, "so", copied)
    collector = Collector(
        store, Leases(tmp_path / "leases"), Uses(store.layout.used), clock=lambda: copied.manifest.created + 1e9
    )
    with FileLock(store.layout.library / ".upstream/.lock"):
        began = time.monotonic()
        done = collector.collect(Rules(max_size=0))
        assert time.monotonic() - began < LOCK_SECONDS / 3
    assert done.removed == {plain.manifest.artifact}
    assert done.facts.spared == {copied.manifest.artifact: COPYING}
    assert isinstance(store.find(KEY), Found)
    assert collector.collect(Rules(max_size=0)).removed == {copied.manifest.artifact}
    assert not (store.layout.library / f"{'0' * 32}.so").exists()
