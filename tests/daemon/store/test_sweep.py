from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mlc_jitd.store import Entry, Found, Store

Publish = Callable[..., Entry]

KEY = "ab" * 32


def later(home: Path, seconds: float) -> Store:
    return Store(home, clock=lambda: time.time() + seconds)


def test_an_artifact_without_a_manifest_goes_when_the_grace_is_over(store: Store, publish: Publish) -> None:
    entry = publish(store)
    Path(entry.manifest_path).unlink()
    assert later(store.layout.home, 3000).open().artifacts == 0
    report = later(store.layout.home, 4000).open()
    assert (report.artifacts, report.bytes) == (1, 7)
    assert not Path(entry.path).exists()


def test_a_copied_artifact_is_as_young_as_its_copy(store: Store, publish: Publish) -> None:
    entry = publish(store)
    Path(entry.manifest_path).unlink()
    os.utime(entry.path, (1, 1))
    assert store.open().artifacts == 0


def test_a_locked_key_is_left_alone(store: Store, publish: Publish) -> None:
    entry = publish(store)
    Path(entry.manifest_path).unlink()
    with store.lock(KEY):
        assert later(store.layout.home, 4000).open().artifacts == 0
    assert later(store.layout.home, 4000).open().artifacts == 1
    assert not Path(entry.path).exists()


def test_entries_and_their_older_artifacts_stay(store: Store, publish: Publish) -> None:
    old, new = publish(store, b"old"), publish(store, b"new")
    assert later(store.layout.home, 1e9).open().artifacts == 0
    assert Path(old.path).exists()
    assert store.find(KEY) == Found(new)


def test_leftover_builds_go_and_strange_names_stay(store: Store) -> None:
    staging = store.layout.staging
    (staging / ("0" * 16)).mkdir()
    (staging / ("0" * 16) / "half").write_bytes(b"x")
    (staging / ("1" * 16)).mkdir()
    (staging / f"{'1' * 16}.lock").touch()
    (staging / f"{'2' * 16}.lock").touch()
    (staging / "notes").touch()
    (staging / ".lock").touch()
    assert store.open().staging == 2
    assert {path.name for path in staging.iterdir()} == {"notes", ".lock"}


def test_a_living_build_stays(store: Store) -> None:
    with store.staging(KEY, need=0) as folder:
        (folder / "half").write_bytes(b"x")
        assert Store(store.layout.home).open().staging == 0
        assert (folder / "half").exists()


def test_what_was_swept_is_counted(store: Store) -> None:
    (store.layout.staging / ("0" * 16)).mkdir()
    store.open()
    assert store.counters()["swept_staging"] == 1
