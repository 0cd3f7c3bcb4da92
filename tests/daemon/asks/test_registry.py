"""The files of the registry: shared by processes, damaged, planted, bounded, not to be written at all."""

from __future__ import annotations

import errno
import json
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlc_jit.errors import StoreError
from mlc_jitd.asks import Asks, Folder, Question, registry

if TYPE_CHECKING:
    from harness.daemons import Place

CPU = Question(device="cpu", python="/p")
KEY = "ab" * 32


@pytest.fixture
def library(place: Place) -> Path:
    place.library.mkdir()
    return place.library


def ask(asks: Asks, path: str, key: str = KEY, *, now: float = 1.0) -> Folder:
    return asks.change(path, lambda folder: folder.told(CPU, "config", key, now=now))


def test_what_is_changed_is_there_for_another_process(library: Path) -> None:
    folder = ask(Asks(library), "/models/ü\udcff")
    assert Asks(library).folder("/models/ü\udcff") == folder
    assert Asks(library).folders() == [folder]
    assert Asks(library).folder("/models") is None


def test_a_change_by_another_process_is_seen(library: Path) -> None:
    mine, theirs = Asks(library), Asks(library)
    ask(mine, "/m")
    assert theirs.folders()[0].keep == ""
    mine.change("/m", lambda folder: folder.keeping(CPU, "pin", KEY))
    assert theirs.pinned() == {KEY: "pinned for /m on cpu"}


def test_what_does_not_change_is_not_written(library: Path) -> None:
    asks = Asks(library)
    ask(asks, "/m")
    (file,) = (library / ".asks").glob("*.json")
    before = file.stat()
    ask(asks, "/m")
    assert file.stat().st_ino == before.st_ino


def test_keys_are_pinned_by_name(library: Path) -> None:
    asks = Asks(library)
    asks.pin_key(KEY)
    assert Asks(library).pinned() == {KEY: "pinned"}
    assert Asks(library).unpin_key(KEY)
    assert not asks.unpin_key(KEY)
    assert asks.pinned() == {}


def _many(library: str, number: int) -> None:
    for each in range(20):
        ask(Asks(Path(library)), "/m", f"{number:032x}{each:032x}"[:64], now=float(each))
        Asks(Path(library)).pin_key(f"{number:032x}{each:032x}")


def test_processes_do_not_undo_each_others_changes(library: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_many, args=(str(library), number)) for number in range(4)]
    for each in children:
        each.start()
    for each in children:
        each.join()
    assert [each.exitcode for each in children] == [0] * 4
    assert len(Asks(library).keys()) == 80
    assert len(Asks(library).folders()) == 1
    assert not list((library / ".asks").glob(".*.json.*"))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"\xff", b'{"format": 2}', b'{"format": 1, "path": 7}', b"[" * 100_000, b'{"format": 1}'],
)
def test_a_bad_file_is_a_folder_that_nobody_asked_for(library: Path, payload: bytes) -> None:
    asks = Asks(library)
    ask(asks, "/m")
    (file,) = (library / ".asks").glob("*.json")
    file.write_bytes(payload)
    (library / ".asks" / "keys.json").write_bytes(payload)
    assert asks.folders() == Asks(library).folders() == []
    assert asks.keys() == {}
    assert len(ask(asks, "/m").asks) == 1


def test_a_file_of_another_folder_is_not_believed(library: Path) -> None:
    asks = Asks(library)
    ask(asks, "/m")
    (file,) = (library / ".asks").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "path": "/other"}))
    assert asks.folders() == []


def test_what_others_can_write_is_not_believed(library: Path) -> None:
    asks = Asks(library)
    ask(asks, "/m")
    (library / ".asks").chmod(0o777)
    assert asks.folders() == []
    with pytest.raises(StoreError, match="can be written") as caught:
        ask(asks, "/n")
    assert "rm -r" in caught.value.remedy
    (library / ".asks").chmod(0o700)
    (file,) = (library / ".asks").glob("*.json")
    file.chmod(0o666)
    assert Asks(library).folders() == []


def test_the_oldest_go_but_none_that_is_pinned(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_FOLDERS", 4)
    asks = Asks(library)
    ask(asks, "/pinned", now=0.5)
    asks.change("/pinned", lambda folder: folder.keeping(CPU, "pin", KEY))
    for number in range(8):
        ask(asks, f"/{number}", now=1.0 + number)
    assert sorted(folder.path for folder in asks.folders()) == ["/5", "/6", "/7", "/pinned"]


def test_a_home_that_cannot_be_written_is_remembered_in_memory(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asks, "_refusal", lambda _asks: True)
    asks = Asks(library)
    ask(asks, "/m")
    assert [folder.path for folder in asks.folders()] == ["/m"]
    assert asks.folder("/m") == asks.folders()[0]
    assert Asks(library).folders() == []
    assert not (library / ".asks").exists()


def test_a_lock_that_is_not_given_back_is_an_error(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOCK_SECONDS", 0.05)
    asks = Asks(library)
    ask(asks, "/m")
    with asks._locked(), pytest.raises(StoreError, match="held by another process"):
        ask(Asks(library), "/n")


def spoil(library: Path, how: str) -> str:
    """Make it unknowable what is pinned; what is said of it."""
    folder, keys = library / ".asks", library / ".asks" / "keys.json"
    if how == "folder that others can write":
        folder.chmod(0o777)
        return f"{folder} can be written by everybody"
    if how == "torn keys":
        keys.write_text("{torn")
        return f"{keys} is damaged"
    if how == "keys that others can write":
        keys.chmod(0o666)
        return f"{keys} can be written by everybody"
    (model,) = (each for each in folder.glob("*.json") if each != keys)
    model.write_text(json.dumps({"format": 2}) if how == "newer folder" else "{")
    return f"{model} is damaged"


SPOILT = ("folder that others can write", "torn keys", "keys that others can write", "newer folder", "torn folder")


@pytest.mark.parametrize("how", SPOILT)
def test_where_pins_can_not_be_read_every_entry_is_protected(
    library: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(Asks(library), "/m")
    Asks(library).pin_key(KEY)
    assert set(Asks(library).protected()) == {KEY}
    said = spoil(library, how)
    asks = Asks(library)
    for _ in range(3):
        assert "cd" * 32 in asks.protected()
        assert said in asks.protected()["cd" * 32]
    (record,) = [each for each in caplog.records if "no entry is collected" in each.getMessage()]
    assert said in record.getMessage()


def test_what_is_protected_without_pins_is_nothing(library: Path) -> None:
    assert dict(Asks(library).protected()) == {}
    assert not Asks(library / "nowhere").protected()


def test_trouble_of_this_process_is_not_remembered(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(Asks(library), "/m")
    asks = Asks(library)

    def too_many(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as trouble:
        trouble.setattr(registry, "read", too_many)
        assert "Too many open files" in asks.protected()[KEY]
        with pytest.raises(StoreError, match="not written over"):
            ask(asks, "/m", "cd" * 32)
    assert not asks.protected()
    assert [folder.path for folder in asks.folders()] == ["/m"]


@pytest.mark.parametrize("how", SPOILT[1:3])
def test_keys_that_can_not_be_read_are_not_written_over(library: Path, how: str) -> None:
    Asks(library).pin_key(KEY)
    said = spoil(library, how)
    before = (library / ".asks" / "keys.json").read_bytes()
    for change in (Asks(library).pin_key, Asks(library).unpin_key):
        with pytest.raises(StoreError, match="not written over") as caught:
            change("cd" * 32)
        assert said in caught.value.message
        assert "keys.json" in caught.value.remedy
    assert (library / ".asks" / "keys.json").read_bytes() == before
