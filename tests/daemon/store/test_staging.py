from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from mlc_jit.errors import StoreFullError
from mlc_jitd.store import Store
from mlc_jitd.store.staging import free_bytes, remove_tree

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER = "ab" * 32, "cd" * 32
MIB = 1 << 20


def test_a_folder_is_fresh_private_and_goes_away(store: Store) -> None:
    with store.staging(KEY, need=0) as one, store.staging(KEY, need=0) as two:
        assert one != two
        assert list(one.iterdir()) == []
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
        assert one.stat().st_dev == store.layout.library.stat().st_dev
        (one / "deep" / "er").mkdir(parents=True)
        (one / "deep" / "file").write_bytes(b"x")
    assert list(store.layout.staging.iterdir()) == []


def test_it_goes_away_when_the_build_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.staging(KEY, need=0):
        raise ZeroDivisionError
    assert list(store.layout.staging.iterdir()) == []


def test_room_is_asked_for_with_the_reserve_and_what_others_were_promised(home: Path) -> None:
    free = 100 * MIB
    store = Store(home, free=lambda _: free, reserve=10 * MIB)
    store.open()
    with store.staging(KEY, need=60 * MIB):
        with store.staging(OTHER, need=30 * MIB):
            pass
        with pytest.raises(StoreFullError) as caught, store.staging(OTHER, need=31 * MIB):
            pytest.fail("it does not fit")
        error = caught.value
        for figure in ("100.0 MiB free", "31.0 MiB needed", "10.0 MiB kept in reserve", "60.0 MiB promised"):
            assert figure in error.message
        assert str(store.layout.library) in error.message
        assert "MLC_LLM_HOME" in error.remedy
        assert error.key == OTHER
    with store.staging(OTHER, need=90 * MIB):
        pass
    with pytest.raises(StoreFullError) as caught, store.staging(OTHER, need=91 * MIB):
        pytest.fail("it does not fit")
    assert "promised" not in caught.value.message


def test_the_real_figure_is_that_of_the_file_system(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert 0 <= free_bytes(tmp_path) <= status.f_blocks * status.f_frsize


def test_read_only_folders_links_and_files_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"x")
    (tree / "link").symlink_to(precious)
    (tree / "a").chmod(0o500)
    assert remove_tree(tree)
    (tmp_path / "link").symlink_to(precious)
    assert remove_tree(tmp_path / "link")
    assert (precious / "file").exists()
    assert remove_tree(tmp_path / "never was")
