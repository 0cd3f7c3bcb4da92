from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.store import About, Entry, Store, ToolchainRecord

if TYPE_CHECKING:
    from pathlib import Path

Publish = Callable[..., Entry]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    """A store for which every file counts as settled, so that remembered entries matter."""
    store = Store(home, clock=lambda: time.time() + 60)
    store.open()
    return store


@pytest.fixture
def about() -> About:
    return About(suffix="so", toolchain=ToolchainRecord(name="double"))


@pytest.fixture
def publish(about: About) -> Publish:
    def publish(store: Store, content: bytes = b"library", key: str = "ab" * 32, about: About = about) -> Entry:
        with store.lock(key), store.staging(key, need=len(content)) as folder:
            (folder / "lib").write_bytes(content)
            return store.publish(key, folder / "lib", about)

    return publish
