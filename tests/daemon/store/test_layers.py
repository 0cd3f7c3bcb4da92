"""Read-only lower layers: searched after the home, verified, trusted, never written, never waited for long."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_jitd.store import Entry, Found, Layer, LayeredStore, Missing, Store
from mlc_jitd.store import layers as room

Publish = Callable[..., Entry]
KEY, OTHER = "ab" * 32, "cd" * 32


def filled(path: Path, publish: Publish, content: bytes = b"from the layer", key: str = KEY) -> Entry:
    store = Store(path)
    store.open()
    return publish(store, content, key=key)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return tmp_path / "layer"


@pytest.fixture
def layered(home: Path, layer: Path) -> LayeredStore:
    store = LayeredStore(home, [layer], clock=lambda: time.time() + 60)
    store.open()
    return store


def snapshot(folder: Path) -> list[Any]:
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in folder.rglob("*"))


def test_the_home_first_then_the_layers_in_their_order(home: Path, tmp_path: Path, publish: Publish) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    lower = filled(second, publish, b"second")
    store = LayeredStore(home, [first, second])
    store.open()
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert (found.entry.path, store.layer_of(found.entry)) == (lower.path, str(second))
    upper = filled(first, publish, b"first")
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert found.entry.path == upper.path
    own = publish(store, b"own")
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert (found.entry.path, store.layer_of(found.entry)) == (own.path, "")
    assert [(layer, manifest.key) for layer, _, manifest in store.everything()] == [("", KEY)]
    filled(second, publish, b"other", OTHER)
    assert sorted(layer for layer, _, _ in store.everything()) == ["", str(second)]
    assert [manifest.key for manifest in store.manifests()] == [KEY], "what the collector sees is the home alone"
    assert store.totals().entries == 1


def test_nothing_is_ever_written_to_a_layer(layered: LayeredStore, layer: Path, publish: Publish) -> None:
    entry = filled(layer, publish)
    before = snapshot(layer)
    assert isinstance(layered.find(KEY), Found)
    assert isinstance(layered.find(OTHER), Missing)
    publish(layered, b"own", key=OTHER)
    assert snapshot(layer) == before
    Path(entry.path).chmod(0o644)
    Path(entry.path).write_bytes(b"damaged")
    Path(entry.path).chmod(0o444)
    before = snapshot(layer)
    for _ in range(3):
        missing = layered.find(KEY)
        assert isinstance(missing, Missing)
        assert missing.reason == "damaged"
        assert entry.path in missing.detail
        assert "left in place" in missing.detail
    assert snapshot(layer) == before
    assert layered.counters()["layer_damaged"] == 3
    assert layered.layers[0].counters()["hashed"] == 1, "damage that stays is not hashed again and again"
    publish(layered, b"anew")
    found = layered.find(KEY)
    assert isinstance(found, Found)
    assert layered.layer_of(found.entry) == ""


def test_an_entry_of_a_local_layer_is_unchanged_by_two_stats(
    layered: LayeredStore, layer: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(layer, publish)
    monkeypatch.setattr(Layer, "_looked", _long_settled(Layer._looked, layered))
    found = layered.find(KEY)
    assert isinstance(found, Found)
    assert layered.unchanged(found.entry) is found.entry.settled


def _long_settled(looked: Callable[[Layer], Any], layered: LayeredStore) -> Callable[[Layer], Any]:
    layered.layers[0].store._finder._clock = lambda: time.time() + 60
    return looked


def test_an_entry_of_a_layer_is_no_longer_handed_out_when_the_home_has_one(
    layered: LayeredStore, home: Path, layer: Path, publish: Publish
) -> None:
    filled(layer, publish)
    layered.layers[0].store._finder._clock = lambda: time.time() + 60
    found = layered.find(KEY)
    assert isinstance(found, Found)
    assert layered.unchanged(found.entry)
    elsewhere = Store(home)  # another process: an import, say
    elsewhere.open()
    newer = publish(elsewhere, b"newer")
    assert not layered.unchanged(found.entry)
    own = layered.find(KEY)
    assert isinstance(own, Found)
    assert own.entry.path == newer.path
    assert layered.unchanged(own.entry)


def test_an_entry_of_a_network_layer_is_asked_for_again_each_time(
    layered: LayeredStore, layer: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(layer, publish)
    layered.layers[0].store._finder._clock = lambda: time.time() + 60
    monkeypatch.setattr(room, "file_system", lambda _path: "nfs4")
    for _ in range(2):
        found = layered.find(KEY)
        assert isinstance(found, Found)
        assert not layered.unchanged(found.entry), "a stat of a dead share never returns: not in the server's thread"
    assert layered.layers[0].counters()["hashed"] == 1


def test_a_missing_layer_is_a_warning_and_may_appear_later(
    layered: LayeredStore, layer: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert isinstance(layered.find(KEY), Missing)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "once for each change"
    assert f"there is no folder {layer}/model_lib" in warnings[0].getMessage()
    assert layered.layers[0].look().state == "missing"
    filled(layer, publish)
    assert isinstance(layered.find(KEY), Found)
    assert layered.layers[0].look().state == "ok"


@pytest.mark.parametrize("folder", [".", "model_lib"])
def test_a_layer_that_others_may_write_is_refused_with_the_command(
    folder: str, layered: LayeredStore, layer: Path, publish: Publish
) -> None:
    filled(layer, publish)
    (layer / folder).chmod(0o777)
    missing = layered.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "absent"
    assert missing.unread.startswith(f"the layer {layer} is not read: ")
    assert "can be written by everybody" in missing.unread
    assert "(Run: chmod go-w" in missing.unread
    state = layered.layers[0].look()
    assert (state.state, state.remedy) == ("refused", f"Run: chmod go-w {(layer / folder).resolve()}")
    os.system(state.remedy.removeprefix("Run: "))
    assert isinstance(layered.find(KEY), Found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_layer_of_another_user_is_refused(layered: LayeredStore, layer: Path, publish: Publish) -> None:
    entry = filled(layer, publish)
    os.chown(entry.path, 54321, -1)
    missing = layered.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "foreign"
    os.chown(layer / "model_lib", 54321, -1)
    assert layered.layers[0].look().state == "refused"
    assert isinstance(layered.find(KEY), Missing)


def test_a_share_that_hangs_holds_nobody_for_long_and_the_home_not_at_all(
    home: Path, layer: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(layer, publish)
    gone = threading.Event()
    real = Layer._looked
    asked: list[int] = []

    def hang(self: Layer) -> Any:
        asked.append(1)
        if not gone.is_set():
            gone.wait(15)
        return real(self)

    monkeypatch.setattr(Layer, "_looked", hang)
    store = LayeredStore(home, [Layer(layer, look_seconds=0.2)])
    store.open()
    own = publish(store, b"own", key=OTHER)
    try:
        missing = store.find(KEY)
        assert isinstance(missing, Missing)
        assert "does not answer within 0.2 s (See to its mount)" in missing.unread
        assert store.layers[0].look().state == "away"
        began = time.monotonic()
        for _ in range(50):
            assert isinstance(store.find(KEY), Missing), "nobody asks while one question hangs"
            found = store.find(OTHER)
            assert isinstance(found, Found)
            assert found.entry.path == own.path
        assert time.monotonic() - began < 5
        assert len(asked) == 1
        assert store.layers[0].totals() == (0, 0)
        assert list(store.everything())
    finally:
        gone.set()
    hanging = store.layers[0]._hanging
    assert hanging is not None
    hanging.join(10)
    assert isinstance(store.find(KEY), Found), "it came back"


def test_a_trouble_in_reading_a_layer_is_a_miss(
    layered: LayeredStore, layer: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(layer, publish)

    def stale(_key: str) -> Any:
        from mlc_jit.errors import StoreError

        raise StoreError("Stale file handle.", reason="estale")

    monkeypatch.setattr(layered.layers[0].store, "find", stale)
    missing = layered.find(KEY)
    assert isinstance(missing, Missing)
    assert "Stale file handle" in missing.unread
    assert layered.counters().get("layer_hits", 0) == 0


def test_without_layers_it_is_a_store(home: Path, publish: Publish) -> None:
    store = LayeredStore(home)
    store.open()
    publish(store)
    assert isinstance(store.find(KEY), Found)
    assert store.layers == Store(home).layers == ()
    assert [layer for layer, _, _ in store.everything()] == [layer for layer, _, _ in Store(home).everything()] == [""]
