"""Finding and publishing where nothing goes wrong, and calls that can't be right."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mlc_jitd.store
from mlc_jit.errors import StoreError
from mlc_jitd.store import About, Entry, Found, Missing, Store

Publish = Callable[..., Entry]

KEY, OTHER = "ab" * 32, "cd" * 32


def test_the_public_names_are_sorted_and_there() -> None:
    names = mlc_jitd.store.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(mlc_jitd.store, name) for name in names)


def test_an_entry_is_found_as_it_was_published(store: Store, publish: Publish, about: About) -> None:
    told = dataclasses.replace(about, system_lib_prefix="p_", device="cpu", degraded=("x",))
    entry = publish(store, b"content", about=told)
    found = store.find(KEY)
    assert found == Found(entry)
    assert Path(entry.path).read_bytes() == b"content"
    assert Path(entry.path).name == f"{KEY}-{hashlib.sha256(b'content').hexdigest()[:16]}.so"
    assert (entry.size, entry.manifest.size) == (7, 7)
    assert entry.manifest.system_lib_prefix == "p_"
    assert entry.manifest.degraded == ("x",)
    assert abs(entry.manifest.created - time.time()) < 120
    assert list(store.layout.staging.iterdir()) == []


def test_an_empty_home_has_nothing(store: Store) -> None:
    missing = store.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "absent"
    assert store.totals() == (0, 0)
    assert list(store.manifests()) == []
    assert store.counters()["absent"] == 1


def test_a_store_that_was_never_opened_finds_and_refuses_to_write(home: Path, store: Store, publish: Publish) -> None:
    publish(store)
    reader = Store(home)
    assert isinstance(reader.find(KEY), Found)
    with pytest.raises(StoreError, match="for reading only"):
        reader.lock(KEY)


def test_settled_entries_are_hashed_once(store: Store, publish: Publish) -> None:
    publish(store)
    for _ in range(5):
        assert isinstance(store.find(KEY), Found)
    assert store.counters().get("hashed", 0) == 0  # publish hashed it
    fresh = Store(store.layout.home, clock=lambda: time.time() + 60)
    for _ in range(5):
        assert isinstance(fresh.find(KEY), Found)
    assert fresh.counters()["hashed"] == 1


def test_what_changed_within_two_seconds_is_hashed_again(home: Path, publish: Publish) -> None:
    now = time.time()
    store = Store(home, clock=lambda: now)
    store.open()
    entry = publish(store)
    assert not store.unchanged(entry)
    store.find(KEY)
    store.find(KEY)
    assert store.counters()["hashed"] == 2
    now += 2.5
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert store.unchanged(found.entry)
    store.find(KEY)
    assert store.counters()["hashed"] == 3


def test_a_touched_artifact_is_hashed_again(store: Store, publish: Publish) -> None:
    entry = publish(store)
    os.utime(entry.path)
    assert not store.unchanged(entry)
    assert isinstance(store.find(KEY), Found)
    assert store.counters()["hashed"] == 1


def test_redo_switches_the_entry_and_keeps_the_old_artifact(store: Store, publish: Publish) -> None:
    old = publish(store, b"old")
    new = publish(store, b"new library")
    assert not store.unchanged(old)
    assert store.unchanged(new)
    assert store.find(KEY) == Found(new)
    assert Path(old.path).read_bytes() == b"old"
    assert store.totals() == (1, len(b"old") + len(b"new library"))
    store.open(grace=-1e9)
    assert Path(old.path).exists()


def test_another_process_sees_a_redo(store: Store, publish: Publish) -> None:
    old = publish(store, b"old")
    other = Store(store.layout.home, clock=lambda: time.time() + 60)
    other.open()
    assert isinstance(other.find(KEY), Found)
    new = publish(store, b"new")
    found = other.find(KEY)
    assert isinstance(found, Found)
    assert found.entry.path == new.path != old.path


def test_a_copied_folder_works(store: Store, publish: Publish, tmp_path: Path) -> None:
    publish(store, b"one")
    publish(store, b"two", OTHER)
    shutil.copytree(store.layout.library, tmp_path / "copy" / "model_lib")
    copy = Store(tmp_path / "copy")
    copy.open()
    for key, content in ((KEY, b"one"), (OTHER, b"two")):
        found = copy.find(key)
        assert isinstance(found, Found)
        assert Path(found.entry.path).read_bytes() == content
        assert str(tmp_path / "copy") in found.entry.path


def test_files_of_others_are_neither_listed_nor_touched(store: Store, publish: Publish) -> None:
    upstream = store.layout.library / "d41d8cd98f00b204e9800998ecf8427e.so"
    upstream.write_bytes(b"upstream's")
    (store.layout.library / "notes.json").write_text("{}")
    publish(store)
    store.open(grace=-1e9)
    assert upstream.read_bytes() == b"upstream's"
    assert store.totals() == (1, 7)
    assert [manifest.key for manifest in store.manifests()] == [KEY]


def test_bad_manifests_are_skipped_and_counted(store: Store, publish: Publish) -> None:
    publish(store)
    publish(store, b"other", OTHER)
    store.layout.manifest(KEY).write_bytes(b"garbage")
    assert [manifest.key for manifest in store.manifests()] == [OTHER]
    assert store.counters()["unreadable_manifests"] == 1
    assert store.layout.manifest(KEY).exists()


def test_a_relative_home_gives_absolute_paths(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"))
    store.open()
    assert publish(store).path.startswith(f"{tmp_path}/here/model_lib/")


def test_a_home_with_undecodable_bytes_works(tmp_path: Path, publish: Publish) -> None:
    store = Store(tmp_path / os.fsdecode(b"h\xff"))
    store.open()
    publish(store)
    assert isinstance(store.find(KEY), Found)


def test_calls_that_cannot_be_right(store: Store, about: About, tmp_path: Path) -> None:
    for call in (store.find, store.lock, lambda key: store.staging(key, need=0)):
        with pytest.raises(ValueError, match="64 lower-case hex"):
            call("../../etc/passwd")
    stray = tmp_path / "lib.so"
    stray.write_bytes(b"x")
    with store.staging(KEY, need=0) as folder:
        (folder / "lib.so").write_bytes(b"x")
        with pytest.raises(RuntimeError, match="needs the lock"):
            store.publish(KEY, folder / "lib.so", about)
        with store.lock(KEY):
            with pytest.raises(ValueError, match="staging"):
                store.publish(KEY, stray, about)
            with pytest.raises(ValueError, match="suffix"):
                store.publish(KEY, folder / "lib.so", dataclasses.replace(about, suffix="exe"))
            with pytest.raises(RuntimeError, match="needs the lock"):
                store.publish(OTHER, folder / "lib.so", about)
            assert store.publish(KEY, folder / "lib.so", about).size == 1


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "no library"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.symlink_to("/etc/passwd"), "no regular file"),
        (os.mkfifo, "no regular file"),
    ],
    ids=["nothing", "empty", "folder", "link", "fifo"],
)
def test_what_is_no_library_is_not_published(
    store: Store, about: About, make: Callable[[Path], object], why: str
) -> None:
    with store.lock(KEY), store.staging(KEY, need=0) as folder:
        make(folder / "lib.so")
        with pytest.raises(StoreError, match=why) as caught:
            store.publish(KEY, folder / "lib.so", about)
    assert caught.value.key == KEY
    assert isinstance(store.find(KEY), Missing)
    assert store.totals() == (0, 0)


def test_an_artifact_has_no_second_name(store: Store, about: About, tmp_path: Path) -> None:
    with store.lock(KEY), store.staging(KEY, need=0) as folder:
        (folder / "lib.so").write_bytes(b"shared")
        os.link(folder / "lib.so", tmp_path / "other-name")
        entry = store.publish(KEY, folder / "lib.so", about)
    (tmp_path / "other-name").write_bytes(b"CHANGE")
    assert Path(entry.path).read_bytes() == b"shared"
