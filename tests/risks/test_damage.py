"""Risk: an artifact or its manifest is damaged, planted, or gone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.store import About, Entry, Found, Missing, Store, ToolchainRecord

if TYPE_CHECKING:
    from collections.abc import Callable

KEY, OTHER = "ab" * 32, "cd" * 32
CONTENT = b"library " * 4000
ABOUT = About(suffix="so", toolchain=ToolchainRecord(name="double"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    # Files count as settled at once, so that a remembered entry is what the damage has to get past.
    store = Store(tmp_path / "home", clock=lambda: time.time() + 60)
    store.open()
    return store


def publish(store: Store, content: bytes = CONTENT, key: str = KEY) -> Entry:
    with store.lock(key), store.staging(key, need=0) as folder:
        (folder / "lib.so").write_bytes(content)
        return store.publish(key, folder / "lib.so", ABOUT)


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def truncate(entry: Entry) -> None:
    edit(Path(entry.path), lambda data: data[:-1])


def empty(entry: Entry) -> None:
    edit(Path(entry.path), lambda _: b"")


def lengthen(entry: Entry) -> None:
    edit(Path(entry.path), lambda data: data + b"\0")


def flip_one_bit(entry: Entry) -> None:
    edit(Path(entry.path), lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])


def flip_one_bit_and_put_the_time_back(entry: Entry) -> None:
    before = Path(entry.path).stat()
    flip_one_bit(entry)
    os.utime(entry.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete_the_artifact(entry: Entry) -> None:
    Path(entry.path).unlink()


def artifact_is_a_folder(entry: Entry) -> None:
    Path(entry.path).unlink()
    Path(entry.path).mkdir()


def artifact_is_a_fifo(entry: Entry) -> None:
    Path(entry.path).unlink()
    os.mkfifo(entry.path, 0o600)


def artifact_is_a_link_to_the_same_bytes(entry: Entry) -> None:
    real = Path(entry.path)
    moved = real.with_name("elsewhere.so")
    real.rename(moved)
    real.symlink_to(moved)


def garbage_manifest(entry: Entry) -> None:
    Path(entry.manifest_path).write_bytes(b"\x00\xffgarbage")


def empty_manifest(entry: Entry) -> None:
    Path(entry.manifest_path).write_bytes(b"")


def half_a_manifest(entry: Entry) -> None:
    edit(Path(entry.manifest_path), lambda data: data[: len(data) // 2])


def nested_manifest(entry: Entry) -> None:
    Path(entry.manifest_path).write_bytes(b"[" * 200_000)


def huge_manifest(entry: Entry) -> None:
    Path(entry.manifest_path).write_bytes(b" " * (2 << 20))


def manifest_is_a_link(entry: Entry) -> None:
    real = Path(entry.manifest_path)
    moved = real.with_name("elsewhere.json")
    real.rename(moved)
    real.symlink_to(moved)


def change_manifest(**fields: object) -> Callable[[Entry], None]:
    def change(entry: Entry) -> None:
        edit(Path(entry.manifest_path), lambda data: json.dumps({**json.loads(data), **fields}).encode())

    change.__name__ = f"manifest_says_{'_'.join(fields)}_{next(iter(fields.values()))!s:.24}"
    return change


TABLE = [
    truncate,
    empty,
    lengthen,
    flip_one_bit,
    flip_one_bit_and_put_the_time_back,
    delete_the_artifact,
    artifact_is_a_folder,
    artifact_is_a_fifo,
    artifact_is_a_link_to_the_same_bytes,
    garbage_manifest,
    empty_manifest,
    half_a_manifest,
    nested_manifest,
    huge_manifest,
    manifest_is_a_link,
    change_manifest(artifact="/etc/passwd"),
    change_manifest(artifact="../../../etc/passwd"),
    change_manifest(artifact=f"{OTHER}-{'0' * 16}.so"),
    change_manifest(key=OTHER),
    change_manifest(sha256="0" * 64),
    change_manifest(sha256="no digest"),
    change_manifest(size=1),
    change_manifest(size=-1),
    change_manifest(suffix="exe"),
    change_manifest(format=0),
    change_manifest(parts=[1, 2]),
]


@pytest.mark.parametrize("damage", TABLE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("fresh", [False, True], ids=["remembered", "fresh"])
def test_damage_is_one_counted_miss_and_a_good_entry_follows(
    store: Store, damage: Callable[[Entry], None], fresh: bool
) -> None:
    publish(store, b"a neighbour", OTHER)
    entry = publish(store)
    assert store.unchanged(entry)
    damage(entry)
    if fresh:
        store = Store(store.layout.home)
        store.open()
    assert not store.unchanged(entry)

    missing = store.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "damaged"
    assert "moved to" in missing.detail
    assert store.counters()["damaged"] == 1

    (aside,) = store.layout.quarantine.iterdir()
    note = json.loads((aside / "why.json").read_text())
    assert note["key"] == KEY
    assert note["why"] in missing.detail
    assert abs(note["when"] - time.time()) < 120
    assert {path.name for path in aside.iterdir()} == {"why.json", *note["files"]}

    again = store.find(KEY)
    assert isinstance(again, Missing)
    assert again.reason == "absent"
    assert store.counters()["damaged"] == 1

    anew = publish(store)
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert Path(anew.path).read_bytes() == CONTENT
    assert isinstance(store.find(OTHER), Found)


def test_a_deleted_manifest_is_an_absent_entry(store: Store) -> None:
    entry = publish(store)
    Path(entry.manifest_path).unlink()
    missing = store.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "absent"
    assert publish(store).path == entry.path
    assert store.counters()["identical"] == 1


def test_a_newer_format_is_absent_and_left_alone(store: Store) -> None:
    entry = publish(store)
    change_manifest(format=99, parts="of another shape")(entry)
    missing = store.find(KEY)
    assert isinstance(missing, Missing)
    assert missing.reason == "absent"
    assert "format 99" in missing.detail
    assert Path(entry.manifest_path).exists()
    assert Path(entry.path).exists()
    assert list(store.layout.quarantine.iterdir()) == []


def test_an_unknown_field_is_ignored(store: Store) -> None:
    change_manifest(colour="green")(publish(store))
    assert isinstance(store.find(KEY), Found)


def test_a_link_never_makes_us_move_what_it_leads_to(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(CONTENT)
    entry = publish(store)
    Path(entry.path).unlink()
    Path(entry.path).symlink_to(precious)
    assert isinstance(store.find(KEY), Missing)
    assert precious.read_bytes() == CONTENT


def test_publish_over_a_damaged_file_of_the_same_name_never_writes_to_it(store: Store) -> None:
    entry = publish(store)
    with Path(entry.path).open("rb") as user:
        flip_one_bit(entry)
        Path(entry.manifest_path).unlink()
        assert publish(store).path == entry.path
        assert user.read() != CONTENT  # who had it open keeps what it had
    assert Path(entry.path).read_bytes() == CONTENT
    (aside,) = store.layout.quarantine.iterdir()
    assert (aside / Path(entry.path).name).exists()


def test_damage_that_somebody_else_is_about_to_replace_is_left_to_them(store: Store) -> None:
    entry = publish(store)
    truncate(entry)
    other = Store(store.layout.home)
    other.open()
    with other.lock(KEY):
        for _ in range(2):
            missing = store.find(KEY)
            assert isinstance(missing, Missing)
            assert missing.reason == "damaged"
            assert "making it anew" in missing.detail
        assert Path(entry.path).exists()
    assert "moved to" in getattr(store.find(KEY), "detail", "")


def test_damage_in_a_folder_for_reading_is_reported_and_hashed_once(store: Store) -> None:
    entry = publish(store)
    flip_one_bit(entry)
    reader = Store(store.layout.home)
    reader.open(writable=False)
    for _ in range(3):
        missing = reader.find(KEY)
        assert isinstance(missing, Missing)
        assert missing.reason == "damaged"
    assert Path(entry.path).exists()
    assert reader.counters()["hashed"] == 1


def test_quarantine_is_bounded(store: Store) -> None:
    for number in range(20):
        truncate(publish(store, b"library %d" % number))
        store.find(KEY)
    assert len(list(store.layout.quarantine.iterdir())) == 20
    assert store.open().quarantined == 4


def test_trouble_of_this_process_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from mlc_jit.errors import StoreError

    entry = publish(store)
    fresh = Store(store.layout.home)
    fresh.open()

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreError, match="Too many open files"):
            fresh.find(KEY)
    assert Path(entry.path).exists()
    assert isinstance(fresh.find(KEY), Found)
