"""``export`` and ``import``: entries travel whole, the file says nothing else, and a bad file changes nothing."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_jitd.store import Found, LayeredStore, Manifest, Store, archive
from mlc_jitd.upkeep import import_

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double
    from mlc_jitd.store import Entry

    MlcJit = Callable[..., subprocess.CompletedProcess[str]]
    Made = Callable[..., Entry]

pytestmark = pytest.mark.timeout(90)  # commands one after another: seconds here, more on a full host


@pytest.fixture
def other(place: Place) -> Path:
    """Another home."""
    return place.folder("other")


def exported(mlc_jit: MlcJit, place: Place, *words: str) -> Path:
    done = mlc_jit("export", *(words or ("--all",)), "-o", place.root / "out.tar")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{place.root / 'out.tar'}\n"
    return place.root / "out.tar"


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def test_there_and_back(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    entries = {each.key: each for each in (made("one"), made("two", b"x" * 70_000), made("three", b"1"))}
    out = exported(mlc_jit, place)
    with tarfile.open(out, "r:") as tar:  # as anybody's tar reads it
        names = tar.getnames()
        table = json.load(tar.extractfile("mlc-jit-export.json"))  # type: ignore[arg-type]
    assert [row["key"] for row in table["entries"]] == sorted(entries)
    assert len(names) == 7
    done = mlc_jit("import", out, "--json", MLC_LLM_HOME=str(other))
    (file,) = answer(done)
    assert (done.returncode, sorted(file["imported"])) == (0, sorted(entries))
    store = Store(other)
    for key, entry in entries.items():
        found = store.find(key)
        assert isinstance(found, Found)
        assert Path(found.entry.path).read_bytes() == Path(entry.path).read_bytes()
        assert found.entry.manifest.parts == entry.manifest.parts
        assert found.entry.manifest.config == entry.manifest.config == "{}"
    assert mlc_jit("verify", MLC_LLM_HOME=str(other)).returncode == 0
    again = mlc_jit("import", out, out, MLC_LLM_HOME=str(other))
    assert (again.returncode, again.stdout) == (0, f"{out}: 0 imported, 3 were there.\n" * 2)


def test_equal_entries_give_equal_bytes(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    made("one"), made("two")
    first = exported(mlc_jit, place).read_bytes()
    assert exported(mlc_jit, place).read_bytes() == first


def test_unpacked_it_is_a_layer(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    entry = made()
    with tarfile.open(exported(mlc_jit, place)) as tar:
        tar.extractall(other, filter="data")
    found = LayeredStore(place.root / "empty", [other]).find(entry.key)
    assert isinstance(found, Found)
    assert found.entry.path == str(other / "model_lib" / Path(entry.path).name)


def test_what_is_exported_is_what_was_named(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    one, two = made("one"), made("two")
    for words, keys in (
        ((one.key[:8],), {one.key}),
        (("/models/two",), {two.key}),
        ((one.key, "/models/two"), {one.key, two.key}),
    ):
        done = mlc_jit("export", *words, "-o", place.root / "out.tar", "--json")
        assert {each["key"] for each in answer(done)["entries"]} == keys
    for words, said in (
        (("0" * 12,), "The cache has no entry for"),
        (("/models/none",), "neither the beginning of a key nor a model folder"),
        ((), "What shall be exported?"),
        (("--all", one.key), "What shall be exported?"),
    ):
        done = mlc_jit("export", *words, "-o", place.root / "none.tar")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert not (place.root / "none.tar").exists()


def test_damage_is_not_exported_and_leaves_the_old_file(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    entry = made()
    out = exported(mlc_jit, place)
    before = out.read_bytes()
    Path(entry.path).chmod(0o644)
    Path(entry.path).write_bytes(Path(entry.path).read_bytes()[:-1] + b"?")
    done = mlc_jit("export", "--all", "-o", out)
    assert done.returncode == 1
    assert "does not have the digest" in done.stderr
    assert out.read_bytes() == before
    assert sorted(path.name for path in place.root.glob("*.tar*")) == ["out.tar"]
    assert list(place.root.glob(".out*")) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_who_may_read_the_file_is_what_its_maker_wants(
    mask: int, mode: int, made: Made, mlc_jit: MlcJit, place: Place
) -> None:
    made("one")
    before = os.umask(mask)
    try:
        out = exported(mlc_jit, place)
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == mode


def test_a_place_that_can_not_be_written(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    made()
    done = mlc_jit("export", "--all", "-o", place.root / "nowhere/out.tar", "--json")
    assert (done.returncode, answer(done)["error"]) == (1, "store")


def test_a_daemon_serves_what_was_imported(
    daemon: Daemon, double: Double, client: Clients, mlc_jit: MlcJit, place: Place, other: Path
) -> None:
    model = double.model()
    path = client.ask(model).path()
    out = exported(mlc_jit, place, str(model))
    place.end_daemons()
    assert mlc_jit("import", out, MLC_LLM_HOME=str(other)).returncode == 0
    answered = client.ask(model, MLC_LLM_HOME=str(other), MLC_JIT_POLICY="READONLY").path()
    assert Path(answered) == other / "model_lib" / Path(path).name
    assert len(double.starts()) == 1


def test_a_key_that_is_being_compiled_is_left_to_who_compiles_it(
    made: Made, mlc_jit: MlcJit, place: Place, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, two = made("one"), made("two")
    out = exported(mlc_jit, place)
    monkeypatch.setattr(import_, "LOCK_SECONDS", 0.2)
    busy = Store(other)
    busy.open()
    with busy.lock(entry.key):
        store = Store(other)
        store.open()
        taken = import_._take(store, out, lambda _: None)
    assert taken == {"imported": [two.key], "there": [], "busy": [entry.key]}


def test_two_who_import_at_the_same_time(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    for name in "abcdef":
        made(name, name.encode() * 5000)
    out = exported(mlc_jit, place)
    found: list[dict[str, list[str]]] = []

    def take() -> None:
        store = Store(other)
        store.open()
        found.append(import_._take(store, out, lambda _: None))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(each["imported"]) for each in found) == 6
    assert mlc_jit("verify", MLC_LLM_HOME=str(other)).returncode == 0


def test_a_full_disk_is_told_and_leaves_no_part(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    made("one")
    out = exported(mlc_jit, place)
    store = Store(other, free=lambda _path: 0)
    store.open()
    from mlc_jit.errors import StoreFullError

    with pytest.raises(StoreFullError):
        import_._take(store, out, lambda _: None)
    assert list(store.layout.staging.iterdir()) == []
    assert list(store.manifests()) == []


# --- what is no export ----------------------------------------------------------------------------------------------


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A tar that anybody could have made."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(payload) if kind == tarfile.REGTYPE else 0, kind, link
            tar.addfile(info, io.BytesIO(payload))
    return held.getvalue()


def table(*rows: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"format": 1, "entries": rows, **more}).encode()


KEY, SHA, UP = "ab" * 32, "cd" * 32, "/../../../../../x"
ROW = {"key": KEY, "artifact": f"{KEY}-{SHA[:16]}.so", "sha256": SHA, "size": 4}
BAD: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello" * 300,
    "zeros": bytes(4096),
    "no table": tar_of(("model_lib/x.so", b"x")),
    "a table that is no JSON": tar_of((archive.TABLE, b"{")),
    "a table of another kind": tar_of((archive.TABLE, b"[]")),
    "a later format": tar_of((archive.TABLE, table(format=2))),
    "a path as key": tar_of((archive.TABLE, table({**ROW, "key": "../../../etc/passwd"}))),
    "a path as artifact": tar_of((archive.TABLE, table({**ROW, "artifact": "../../x.so"}))),
    "a path as digest": tar_of((archive.TABLE, table({**ROW, "sha256": UP, "artifact": f"{KEY}-{UP[:16]}.so"}))),
    "one key twice": tar_of((archive.TABLE, table(ROW, ROW))),
    "no size": tar_of((archive.TABLE, table({**ROW, "size": 0}))),
    "a huge size": tar_of((archive.TABLE, table({**ROW, "size": 1 << 60}))),
    "nothing behind the table": tar_of((archive.TABLE, table(ROW))),
    "a manifest that is none": tar_of((archive.TABLE, table(ROW)), (f"model_lib/{KEY}.json", b"{}")),
    "another member": tar_of((archive.TABLE, table(ROW)), ("../../evil", b"x")),
    "more than the table says": tar_of((archive.TABLE, table()), ("model_lib/extra.so", b"x")),
    "a link": tar_of((archive.TABLE, b""), kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a folder": tar_of((archive.TABLE, b""), kind=tarfile.DIRTYPE),
    "a device": tar_of((archive.TABLE, b""), kind=tarfile.BLKTYPE),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_export_is_refused_and_changes_nothing(name: str, mlc_jit: MlcJit, place: Place) -> None:
    store = Store(place.cache)
    store.open()
    path = place.root / "bad.tar"
    path.write_bytes(BAD[name])
    before = sorted(str(each) for each in place.root.rglob("*") if ".locks" not in str(each))
    done = mlc_jit("import", path, "--json")
    said = answer(done)
    assert (done.returncode, said["error"], said["reason"]) == (2, "bad-request", "damaged")
    assert said["message"].startswith(f"{path} can't be imported: ")
    assert sorted(str(each) for each in place.root.rglob("*") if ".locks" not in str(each)) == before


def test_a_file_that_is_not_there(mlc_jit: MlcJit, place: Place) -> None:
    done = mlc_jit("import", place.root / "none.tar", place.root)
    assert done.returncode == 2
    assert "can't be read: No such file" in done.stderr


def test_a_manifest_whose_parts_make_another_key_is_refused(
    made: Made, place: Place, other: Path, mlc_jit: MlcJit
) -> None:
    entry = made()
    manifest = json.loads(Path(entry.manifest_path).read_bytes())
    manifest["parts"]["opt"]["value"] = "O0"
    Path(entry.manifest_path).write_text(json.dumps(manifest))
    out = exported(mlc_jit, place)
    done = mlc_jit("import", out, MLC_LLM_HOME=str(other))
    assert done.returncode == 2
    assert "opt part" in done.stderr


def test_what_came_before_the_damage_stays_and_is_whole(made: Made, mlc_jit: MlcJit, place: Place, other: Path) -> None:
    keys = sorted(made(name, name.encode() * 4000).key for name in "abc")
    out = exported(mlc_jit, place)
    out.write_bytes(out.read_bytes()[:-3000])
    done = mlc_jit("import", out, MLC_LLM_HOME=str(other))
    assert done.returncode == 2
    assert "2 entries before that were" in done.stderr
    assert Store(other).keys() == keys[:2]
    assert mlc_jit("verify", MLC_LLM_HOME=str(other)).returncode == 0


def whole() -> bytes:
    """An export of two entries, made in memory."""
    import hashlib
    import tempfile

    held = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for key, payload in (("11" * 32, b"first library" * 90), ("22" * 32, b"second" * 120)):
            from mlc_jitd.store import About, ToolchainRecord

            about = About(suffix="so", toolchain=ToolchainRecord(name="double"))
            sha = hashlib.sha256(payload).hexdigest()
            path = Path(folder) / key
            path.write_bytes(payload)
            entries.append(
                (Manifest.describe(about, key=key, sha256=sha, size=len(payload), created=1.0, version="1"), path)
            )
        archive.write(held, entries)
    return held.getvalue()


WHOLE = whole()


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=12)), max_size=4),
    cut=st.integers(0, len(WHOLE)),
    tail=st.binary(max_size=600),
)
def test_damaged_files_raise_the_declared_error_alone_and_what_is_taken_is_whole(
    place: Place, edits: list[tuple[int, bytes]], cut: int, tail: bytes
) -> None:
    from mlc_jit.errors import RequestError

    damaged = bytearray(WHOLE)
    for at, what in edits:
        damaged[at : at + len(what)] = what
    payload = bytes(damaged[: max(cut, 0)]) + tail if cut < len(WHOLE) else bytes(damaged)
    home = place.root / "fuzzed"
    path = place.root / "fuzz.tar"
    path.write_bytes(payload)
    store = Store(home)
    store.open()
    outside = sorted(str(each) for each in place.root.rglob("*") if not each.is_relative_to(home))
    try:
        taken = import_._take(store, path, lambda _: None)
        assert len(taken["imported"]) + len(taken["there"]) <= 2
        reason = "damaged"
    except RequestError as error:
        reason = error.reason
    assert reason == "damaged"
    assert sorted(str(each) for each in place.root.rglob("*") if not each.is_relative_to(home)) == outside
    originals = {"11" * 32: b"first library" * 90, "22" * 32: b"second" * 120}
    reader = Store(home)
    for key in reader.keys():  # noqa: SIM118 - no mapping
        found = reader.find(key)
        assert isinstance(found, Found)
        if key in originals:
            assert Path(found.entry.path).read_bytes() == originals[key]
    assert list(store.layout.staging.iterdir()) == []
    for each in (*store.layout.library.glob("*.json"), *store.layout.library.glob("*-*")):
        each.unlink()
