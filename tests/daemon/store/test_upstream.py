"""Risk: a copy under upstream's name replaces, shares an inode with, or outlives what it must not."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_jitd.store import About, Entry, Store, ToolchainRecord, marks
from mlc_jitd.store.upstream import UpstreamNames

Publish = Callable[..., Entry]

KEY, OTHER = "ab" * 32, "cd" * 32
MD5 = "0123456789abcdef" * 2


@pytest.fixture
def names(store: Store) -> UpstreamNames:
    return UpstreamNames(store.layout)


def at(store: Store, md5: str = MD5) -> Path:
    return store.layout.library / f"{md5}.so"


def test_a_copy_is_whole_private_and_another_inode(store: Store, publish: Publish, names: UpstreamNames) -> None:
    entry = publish(store, b"library")
    assert names.place(MD5, "so", entry) == "placed"
    copy = at(store)
    assert copy.read_bytes() == b"library"
    assert copy.stat().st_mode & 0o777 == 0o644
    assert copy.stat().st_nlink == 1
    assert copy.stat().st_ino != Path(entry.path).stat().st_ino
    assert names.place(MD5, "so", entry) == "there"
    (record,) = names.names()
    assert (record.key, record.name, record.size) == (KEY, copy.name, 7)
    assert {path.name for path in (store.layout.library / ".upstream").iterdir()} == {f"{MD5}.json", ".lock"}
    assert store.totals().entries == 1  # to the store it is nobody's
    store.open()
    assert copy.exists()


def test_writing_over_it_as_upstream_does_leaves_the_entry_alone(
    store: Store, publish: Publish, names: UpstreamNames, tmp_path: Path
) -> None:
    entry = publish(store, b"library")
    names.place(MD5, "so", entry)
    shutil.copyfile(__file__, at(store))  # shutil.move across file systems writes into the inode
    assert Path(entry.path).read_bytes() == b"library"
    assert names.names() == []
    assert names.place(MD5, "so", publish(store, b"newer")) == "not-ours"
    assert names.remove(KEY) == 0
    assert at(store).read_bytes() == Path(__file__).read_bytes()


def test_a_file_of_upstreams_is_never_replaced(store: Store, publish: Publish, names: UpstreamNames) -> None:
    at(store).write_bytes(b"theirs")
    assert names.place(MD5, "so", publish(store)) == "not-ours"
    assert at(store).read_bytes() == b"theirs"
    assert names.names() == []
    left = names.look(MD5, "so")
    assert left is not None
    assert (left.copy, left.doubt, left.size) == (None, "", 6)


def test_one_that_comes_between_the_look_and_the_link_is_not_replaced(
    store: Store, publish: Publish, names: UpstreamNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(store)
    link = os.link

    def late(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert names.place(MD5, "so", entry) == "not-ours"
    assert at(store).read_bytes() == b"theirs"
    assert names.names() == []
    assert names.remove(KEY) == 0
    assert at(store).exists()


def test_after_a_redo_the_copy_is_the_new_library(store: Store, publish: Publish, names: UpstreamNames) -> None:
    names.place(MD5, "so", publish(store, b"old"))
    with at(store).open("rb") as mapped:
        assert names.place(MD5, "so", publish(store, b"new")) == "placed"
        assert mapped.read() == b"old"  # who has it open keeps it
    assert at(store).read_bytes() == b"new"
    assert [len(copy.made) for copy in names.names()] == [1]


def test_another_toolchains_and_another_entrys_copy_stay(
    store: Store, publish: Publish, names: UpstreamNames, about: About
) -> None:
    names.place(MD5, "so", publish(store, b"old"))
    upgraded = dataclasses.replace(about, toolchain=ToolchainRecord(name="double", fingerprint="2"))
    assert names.place(MD5, "so", publish(store, b"new", OTHER, upgraded)) == "another-toolchain"
    assert names.place(MD5, "so", publish(store, b"new", "ef" * 32)) == "another-entry"
    assert at(store).read_bytes() == b"old"


def test_a_collected_entry_takes_all_its_copies_and_no_others(
    store: Store, publish: Publish, names: UpstreamNames
) -> None:
    mine, other = publish(store, b"mine"), publish(store, b"other", OTHER)
    for number in range(3):
        names.place(f"{number:032x}", "so", mine)
    names.place(MD5, "so", other)
    assert names.orphans() == set()
    Path(mine.manifest_path).unlink()
    assert names.orphans() == {KEY}
    assert UpstreamNames(store.layout).remove(KEY) == 12  # another process
    assert [copy.key for copy in names.names()] == [OTHER]
    assert names.remove(KEY) == 0
    assert names.remove(OTHER) == 5
    assert not at(store).exists()


def test_what_is_being_collected_gets_no_copy(store: Store, publish: Publish, names: UpstreamNames) -> None:
    entry = publish(store)
    Path(entry.manifest_path).unlink()
    with pytest.raises(FileNotFoundError):
        names.place(MD5, "so", entry)
    assert not at(store).exists()
    assert names.names() == []


def test_a_name_whose_copy_somebody_removed_belongs_to_the_next(
    store: Store, publish: Publish, names: UpstreamNames
) -> None:
    first, second = publish(store, b"first"), publish(store, b"second", OTHER)
    names.place(MD5, "so", first)
    at(store).unlink()
    assert names.place(MD5, "so", second) == "placed"
    assert names.remove(KEY) == 0
    assert at(store).read_bytes() == b"second"


def test_a_damaged_artifact_is_not_copied(store: Store, publish: Publish, names: UpstreamNames) -> None:
    entry = publish(store)
    Path(entry.path).chmod(0o644)
    Path(entry.path).write_bytes(b"damaged")
    with pytest.raises(OSError, match="content"):
        names.place(MD5, "so", entry)
    assert not at(store).exists()
    assert names.names() == []


def test_no_room(store: Store, publish: Publish) -> None:
    names = UpstreamNames(store.layout, free=lambda _path: 1 << 20)
    assert names.place(MD5, "so", publish(store)) == "no-room"
    assert not at(store).exists()


def test_names_that_are_none(store: Store, publish: Publish, names: UpstreamNames) -> None:
    for md5, suffix in (("../../x", "so"), (MD5, "exe"), (MD5.upper(), "so")):
        with pytest.raises(ValueError, match="no name"):
            names.place(md5, suffix, publish(store))


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_files_that_others_can_write_are_doubted(store: Store, names: UpstreamNames, mode: int) -> None:
    at(store).write_bytes(b"theirs")
    at(store).chmod(mode)
    os.chown(at(store), -1, 0) if os.getuid() == 0 else None
    left = names.look(MD5, "so")
    assert left is not None
    if mode == 0o666 or os.getuid() == 0:
        assert "written" in left.doubt
        assert "chmod" in left.remedy


def test_links_are_doubted(store: Store, names: UpstreamNames) -> None:
    at(store).symlink_to(__file__)
    left = names.look(MD5, "so")
    assert left is not None
    assert "regular" in left.doubt


def test_everything_under_upstreams_names_is_listed_newest_first(
    store: Store, publish: Publish, names: UpstreamNames
) -> None:
    names.place(MD5, "so", publish(store))
    theirs = at(store, "f" * 32)
    theirs.write_bytes(b"theirs")
    os.utime(theirs, (1, 1))
    (store.layout.library / "notes.so").touch()
    assert [(left.md5, left.copy is not None) for left in names.left()] == [(MD5, True), ("f" * 32, False)]


def test_many_at_once_make_one_copy(store: Store, publish: Publish) -> None:
    entry = publish(store, b"x" * 100_000)
    done: list[str] = []

    def place() -> None:
        done.append(UpstreamNames(store.layout).place(MD5, "so", entry))

    threads = [threading.Thread(target=place) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(["placed", *["there"] * 7])
    assert at(store).read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("dies_at", ["os.link", "os.remove", "os.rename"])
def test_a_crash_leaves_nobodys_file(store: Store, publish: Publish, dies_at: str) -> None:
    entry = publish(store, b"library")
    names = UpstreamNames(store.layout)
    for nth in range(6):
        pid = os.fork()
        if pid == 0:
            import sys

            seen = 0

            def audit(event: str, _arguments: object, last: int = nth) -> None:
                nonlocal seen
                if event == dies_at:
                    if seen == last:
                        os._exit(7)
                    seen += 1

            sys.addaudithook(audit)
            UpstreamNames(store.layout).place(MD5, "so", entry)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if at(store).exists():
            assert at(store).read_bytes() == b"library"
        assert names.place(MD5, "so", entry) in ("placed", "there")
        assert names.remove(KEY) == 7
        assert not at(store).exists()
        if os.waitstatus_to_exitcode(status) == 0:
            return
    raise AssertionError("it never got to its end")


def restored(store: Store, home: Path) -> Store:
    """What ``cp -r`` makes of a home: other inodes and times."""
    shutil.copytree(store.layout.home, home)
    for each in (home / "model_lib").glob("*.so"):
        os.utime(each, (1, 1))
    copied = Store(home)
    copied.open()
    return copied


def test_in_a_home_that_was_copied_our_copies_are_still_ours(
    store: Store, publish: Publish, names: UpstreamNames, tmp_path: Path
) -> None:
    names.place(MD5, "so", publish(store, b"library"))
    home = restored(store, tmp_path / "restored")
    there = UpstreamNames(home.layout)
    left = there.look(MD5, "so")
    assert left is not None
    assert left.copy is not None
    assert left.copy.key == KEY
    assert [copy.key for copy in there.names()] == [KEY]
    assert there.place(MD5, "so", publish(home, b"renewed")) == "placed"
    assert there.remove(KEY) == 7
    assert not at(home).exists()


def test_a_copy_is_read_once_to_know_it_again(
    store: Store, publish: Publish, names: UpstreamNames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.place(MD5, "so", publish(store, b"library"))
    home = restored(store, tmp_path / "restored")
    UpstreamNames(home.layout).settle()
    monkeypatch.setattr(marks, "holds", lambda *_: pytest.fail("it was read again"))
    assert [copy.key for copy in UpstreamNames(home.layout).names()] == [KEY]


def test_a_file_of_the_same_size_with_another_content_is_not_ours(
    store: Store, publish: Publish, names: UpstreamNames
) -> None:
    names.place(MD5, "so", publish(store, b"library"))
    at(store).write_bytes(b"theirs!")
    left = names.look(MD5, "so")
    assert left is not None
    assert left.copy is None
    assert names.names() == []
    assert names.remove(KEY) == 0
    assert at(store).exists()


def test_a_file_that_can_not_be_compared_is_doubted(
    store: Store, publish: Publish, names: UpstreamNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.place(MD5, "so", publish(store, b"library"))
    at(store).write_bytes(b"theirs!")

    def too_many(*_: object) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(marks, "holds", too_many)
    left = names.look(MD5, "so")
    assert left is not None
    assert "Too many open files" in left.doubt
    with pytest.raises(OSError, match="Too many"):
        names.remove(KEY)
    monkeypatch.undo()
    assert names.remove(KEY) == 0
    assert at(store).exists()
