"""Risk: an explanation speaks of entries that are gone, misses those of other processes, or takes its time."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.known import Known
from mlc_jitd.store import About, Entry, ModelRecord, PartRecord, Store, ToolchainRecord
from mlc_jitd.store.manifest import Manifest, encode

MODEL = {"model_type": "llama", "quantization": "q0f32", "active_vocab_size": None, "config": {"hidden_size": 64}}


def parts_of(**changes: Any) -> tuple[Any, ...]:
    values = {**dict.fromkeys(PART_NAMES), "format": 1, "model": MODEL, "opt": "O2", "overrides": {}, **changes}
    return tuple(part(name, values[name]) for name in PART_NAMES)


def about_of(parts: tuple[Any, ...]) -> About:
    return About(
        suffix="so",
        toolchain=ToolchainRecord(name="mlc_llm", fingerprint="then", versions={"mlc_llm": "0.20"}),
        parts={each.name: PartRecord(sha256=each.sha256, value=each.value) for each in parts},
        model=ModelRecord(path="/m", type="llama", quantization="q0f32"),
    )


def identity(**changes: Any) -> Any:
    parts = parts_of(**changes)
    return SimpleNamespace(
        key=key_of(parts),
        parts=parts,
        model_type="llama",
        quantization="q0f32",
        toolchain=SimpleNamespace(fingerprint="now"),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    store.open()
    return store


def publish(store: Store, **changes: Any) -> Entry:
    parts = parts_of(**changes)
    key = key_of(parts)
    with store.lock(key), store.staging(key, need=1) as folder:
        (folder / "lib").write_bytes(b"library")
        return store.publish(key, folder / "lib", about_of(parts))


def remove(entry: Entry) -> None:
    Path(entry.manifest_path).unlink()
    Path(entry.path).unlink()


def test_entries_of_other_processes_are_followed(store: Store) -> None:
    known = Known(store)
    assert known.why(identity(), "/m").words == "the cache is empty"
    first = publish(store, opt="O3")
    assert known.why(identity(), "/m").words.endswith("opt O3 there, O2 here")
    publish(store, opt="O3", overrides={"max_batch_size": 4})
    found = known.why(identity(), "/m")
    assert (found.compared, found.nearest[0].summary.key) == (2, first.key)
    remove(first)
    found = known.why(identity(), "/m")
    assert (found.compared, len(found.nearest)) == (1, 1)
    assert "override max_batch_size 4 there, not given here" in found.words


def test_an_entry_that_was_there_before_says_so(store: Store) -> None:
    known = Known(store)
    remove_me, other = publish(store), publish(store, opt="O3")
    assert known.refresh()
    remove(remove_me)
    found = known.why(identity(), "/m")
    assert "collected or removed" in found.words
    assert [near.summary.key for near in found.nearest] == [other.key]
    publish(store)
    remove(other)
    assert "collected" not in known.why(identity(opt="O1"), "/m").words


def test_the_entry_itself_is_not_compared(store: Store) -> None:
    publish(store)
    assert Known(store).why(identity(), "/m").nearest == ()


def test_garbage_is_passed_over(store: Store) -> None:
    publish(store, opt="O3")
    (store.layout.library / f"{'ab' * 32}.json").write_text("garbage")
    known = Known(store)
    assert known.why(identity(), "/m").compared == 1
    assert known.refresh()


def test_edits_are_asked_for_by_fingerprint(store: Store) -> None:
    publish(store, toolchain={"packages": {"tvm": {"version": "1", "build": "a"}}})
    found = Known(store, lambda before, now: (f"/{before}/{now}.py",)).why(
        identity(toolchain={"packages": {"tvm": {"version": "1", "build": "b"}}}), "/m"
    )
    assert "then/now.py was edited" in found.words


@pytest.fixture
def many(store: Store) -> Store:
    """Ten thousand manifests, without their libraries."""
    for number in range(10_000):
        parts = parts_of(overrides={"max_batch_size": number + 1}, opt="O3")
        key = key_of(parts)
        manifest = Manifest.describe(
            dataclasses.replace(about_of(parts), device="cpu"),
            key=key, sha256="ab" * 32, size=7, created=float(number), version="1",
        )  # fmt: skip
        (store.layout.library / f"{key}.json").write_bytes(encode(manifest))
    return store


@pytest.mark.timeout(60)
def test_ten_thousand_entries(many: Store) -> None:
    """The bounds are for a busy host; benchmarks/explain.py measures."""
    known = Known(many)
    began = time.monotonic()
    early = known.why(identity(), "/m", seconds=0.05)
    assert time.monotonic() - began < 2
    assert not early.complete
    assert early.compared < 10_000
    assert known.refresh()
    past = time.time() - 60
    os.utime(many.layout.library, (past, past))  # a folder that changed just now is listed anew each time
    known.refresh()
    taken = []
    for _ in range(5):
        began = time.monotonic()
        found = known.why(identity(), "/m")
        taken.append(time.monotonic() - began)
    assert (found.compared, found.complete) == (10_000, True)
    assert "opt O3 there, O2 here" in found.words
    assert min(taken) < 0.5
