from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.store import About, ModelRecord, PartRecord, Store, ToolchainRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Place
    from mlc_jitd.store import Entry


def entry(store: Store, name: str, content: bytes | None = None, **about: Any) -> Entry:
    """Publish a library whose key follows from its parts, as a daemon would."""
    values = {"format": 1, "model": {"name": name}, "overrides": {"max_batch_size": 4, "mode": "a;b"}, "opt": "O3"}
    parts = tuple(part(each, values.get(each)) for each in PART_NAMES)
    key = key_of(parts)
    told = {
        "suffix": "so",
        "toolchain": ToolchainRecord(name="double"),
        "parts": {each.name: PartRecord(sha256=each.sha256, value=each.value) for each in parts},
        "model": ModelRecord(path=f"/models/{name}"),
        "device": "cuda:0",
        "config": "{}",
    }
    payload = content if content is not None else f"library {name}".encode() * 50
    with store.lock(key), store.staging(key, need=len(payload)) as folder:
        (folder / "lib").write_bytes(payload)
        return store.publish(key, folder / "lib", About(**{**told, **about}))


@pytest.fixture
def store(place: Place) -> Store:
    """The store of this test's home, opened."""
    found = Store(place.cache)
    found.open()
    return found


@pytest.fixture
def made(store: Store) -> Callable[..., Entry]:
    """Publishes a library: ``made(name, content, **about)``."""
    return lambda name="one", content=None, **about: entry(store, name, content, **about)
