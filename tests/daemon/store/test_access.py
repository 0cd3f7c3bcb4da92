"""Whom the store trusts. Changing owners needs root, which is what tests in containers usually are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlc_jit.errors import StoreUnwritableError
from mlc_jitd.store import Entry, Found, Missing, Store
from mlc_jitd.store import access as access_module

Publish = Callable[..., Entry]

STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


def missing(store: Store, entry: Entry) -> Missing:
    found = store.find(entry.key)
    assert isinstance(found, Missing)
    return found


def test_the_usual_modes(store: Store, publish: Publish) -> None:
    entry = publish(store)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (
        Path(entry.path), Path(entry.manifest_path), store.layout.locks, store.layout.staging, store.layout.quarantine,
        store.layout.library,
    )}  # fmt: skip
    assert list(modes.values()) == [0o444, 0o644, 0o700, 0o700, 0o700, 0o755]


@needs_root
@pytest.mark.parametrize("field", ["path", "manifest_path"])
def test_a_file_of_somebody_else_is_foreign_and_left_alone(store: Store, publish: Publish, field: str) -> None:
    entry = publish(store)
    path = getattr(entry, field)
    os.chown(path, STRANGER, -1)
    answer = missing(store, entry)
    assert answer.reason == "foreign"
    assert f"uid {STRANGER}" in answer.detail
    assert f"chown {os.geteuid()} {path}" in answer.remedy
    assert Path(entry.path).exists()
    assert Path(entry.manifest_path).exists()
    assert store.counters()["foreign"] == 1
    assert "quarantined" not in store.counters()
    os.chown(path, os.geteuid(), -1)
    assert isinstance(store.find(entry.key), Found)


@pytest.mark.parametrize("field", ["path", "manifest_path"])
def test_a_file_that_everybody_may_write_is_foreign(store: Store, publish: Publish, field: str) -> None:
    entry = publish(store)
    Path(getattr(entry, field)).chmod(0o666)
    answer = missing(store, entry)
    assert answer.reason == "foreign"
    assert f"chmod go-w {getattr(entry, field)}" in answer.remedy


@needs_root
def test_a_link_of_somebody_else_is_foreign(store: Store, publish: Publish, tmp_path: Path) -> None:
    entry = publish(store)
    Path(entry.path).rename(tmp_path / "moved")
    Path(entry.path).symlink_to(tmp_path / "moved")
    os.lchown(entry.path, STRANGER, -1)
    assert missing(store, entry).reason == "foreign"
    assert Path(entry.path).is_symlink()


def test_a_group_counts_as_others_unless_it_is_the_owners_own(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(store)
    Path(entry.path).chmod(0o464)
    monkeypatch.setattr(access_module, "_private_group", lambda _gid, _uid: True)
    assert isinstance(store.find(entry.key), Found)
    Path(entry.path).chmod(0o664)
    monkeypatch.setattr(access_module, "_private_group", lambda _gid, _uid: False)
    assert "chmod g-w" in missing(store, entry).remedy


def test_a_group_is_private_only_if_it_is_this_users_own_and_not_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    private = access_module._private_group.__wrapped__
    me = SimpleNamespace(pw_name="me")
    monkeypatch.setattr(access_module.pwd, "getpwuid", lambda _uid: me)
    monkeypatch.setattr(access_module.grp, "getgrgid", lambda _gid: SimpleNamespace(gr_name="me", gr_mem=[]))
    uid = os.geteuid()
    assert private(1000, uid)
    assert not private(0, uid)
    assert not private(1000, uid + 1)


@needs_root
def test_what_roots_group_may_write_is_not_closed_to_others(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 0)
    tmp_path.chmod(0o775)
    wrong, remedy = access_module.distrust(tmp_path.stat(), tmp_path) or ("", "")
    assert "group" in wrong
    assert "chmod g-w" in remedy


def test_an_unknown_group_is_not_private() -> None:
    assert not access_module._private_group(54399, 54398)


@needs_root
def test_foreign_files_do_not_keep_a_good_entry_from_being_published(store: Store, publish: Publish) -> None:
    entry = publish(store)
    os.chown(entry.path, STRANGER, -1)
    anew = publish(store)
    assert isinstance(store.find(entry.key), Found)
    assert Path(anew.path).stat().st_uid == os.geteuid()


@pytest.mark.parametrize("name", ["library", "staging", "locks", "quarantine"])
def test_a_folder_that_others_may_write_is_refused_with_the_command(home: Path, publish: Publish, name: str) -> None:
    store = Store(home)
    store.open()
    entry = publish(store)
    folder: Path = getattr(store.layout, name)
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(mode | 0o002)
    for writable in (True, False):
        with pytest.raises(StoreUnwritableError) as caught:
            Store(home).open(writable=writable)
        assert str(folder) in caught.value.message
        assert f"chmod go-w {folder}" in caught.value.remedy
    folder.chmod(mode)
    assert Store(home).open().writable
    assert isinstance(store.find(entry.key), Found)


@needs_root
def test_a_folder_of_somebody_else_is_refused(home: Path) -> None:
    store = Store(home)
    store.open()
    os.chown(store.layout.library, STRANGER, -1)
    with pytest.raises(StoreUnwritableError, match=f"uid {STRANGER}"):
        Store(home).open()


def test_an_open_home_is_a_warning(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    (warning,) = Store(home).open().warnings
    assert str(home) in warning
    home.chmod(0o1777)
    assert Store(home).open().warnings == ()


def test_a_link_in_the_place_of_a_working_folder_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.layout.staging.rmdir()
    store.layout.staging.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnwritableError, match="is not a folder"):
        Store(store.layout.home).open()


def test_model_lib_may_be_a_link_to_another_disk(home: Path, tmp_path: Path, publish: Publish) -> None:
    home.mkdir()
    (tmp_path / "disk").mkdir(mode=0o755)
    (home / "model_lib").symlink_to(tmp_path / "disk")
    store = Store(home)
    assert store.open().writable
    assert isinstance(store.find(publish(store).key), Found)
