"""``verify`` and ``quarantine``: all damage is found, only --repair changes anything, and remedies work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.cli import verify as shown
from mlc_jitd.store import Found, Store
from mlc_jitd.store.quarantine import listing
from mlc_jitd.upkeep.verify import entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double
    from mlc_jitd.store import Entry

    MlcJit = Callable[..., subprocess.CompletedProcess[str]]
    Made = Callable[..., Entry]

pytestmark = pytest.mark.timeout(90)  # commands one after another: seconds here, more on a full host


def snapshot(folder: Path) -> dict[str, Any]:
    """Every name below a folder with what its stat says but for access times."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns, path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def report(done: subprocess.CompletedProcess[str]) -> Any:
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def rewrite(path: str | Path, change: Callable[[bytes], bytes]) -> None:
    path = Path(path)
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))
    path.chmod(mode)


def part_changed(payload: bytes) -> bytes:
    manifest = json.loads(payload)
    manifest["parts"]["opt"]["value"] = "O0"
    return json.dumps(manifest).encode()


def parts_of_another_key(payload: bytes) -> bytes:
    manifest = json.loads(payload)
    manifest["parts"]["opt"] = manifest["parts"]["prefix"]
    return json.dumps(manifest).encode()


def a_part_gone(payload: bytes) -> bytes:
    manifest = json.loads(payload)
    del manifest["parts"]["toolchain"]
    return json.dumps(manifest).encode()


DAMAGES: dict[str, Callable[[Entry], Any]] = {
    "flipped": lambda entry: rewrite(entry.path, lambda old: bytes([old[0] ^ 1]) + old[1:]),
    "truncated": lambda entry: rewrite(entry.path, lambda old: old[:-1]),
    "grown": lambda entry: rewrite(entry.path, lambda old: old + b"x"),
    "gone": lambda entry: Path(entry.path).unlink(),
    "a link": lambda entry: (Path(entry.path).unlink(), Path(entry.path).symlink_to("/etc/hostname")),
    "a folder": lambda entry: (Path(entry.path).unlink(), Path(entry.path).mkdir()),
    "manifest garbage": lambda entry: rewrite(entry.manifest_path, lambda _: b"\x00garbage"),
    "manifest of another": lambda entry: rewrite(
        entry.manifest_path, lambda old: old.replace(entry.key.encode(), b"0" * 64)
    ),
    "part changed": lambda entry: rewrite(entry.manifest_path, part_changed),
    "parts of another key": lambda entry: rewrite(entry.manifest_path, parts_of_another_key),
    "a part gone": lambda entry: rewrite(entry.manifest_path, a_part_gone),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_left_alone_and_repaired_on_demand(
    damage: str, made: Made, mlc_jit: MlcJit, place: Place
) -> None:
    good, bad = made("good"), made("bad")
    DAMAGES[damage](bad)
    before = snapshot(place.cache)
    done = mlc_jit("verify", "--json")
    (finding,) = report(done)["findings"]
    assert (done.returncode, finding["kind"], finding["key"], finding["repaired"]) == (1, "damaged", bad.key, False)
    assert snapshot(place.cache) == before, "only --repair changes anything"
    if "part" not in damage and "manifest" not in damage:
        assert finding["again"] == (
            "mlc-jit compile /models/bad --device cuda:0 --opt O3 --overrides 'max_batch_size=4;mode=a;b'"
        )
        assert finding["again"] in finding["remedy"]

    done = mlc_jit("verify", "--repair", "--json")
    repaired = [each for each in report(done)["findings"] if each["repaired"]]
    assert (done.returncode, [each["key"] for each in repaired]) == (0, [bad.key])
    assert not Path(bad.manifest_path).exists()
    store = Store(place.cache)
    assert isinstance(store.find(good.key), Found)
    (aside,) = listing(store.layout)
    assert aside.key == bad.key
    assert mlc_jit("verify").returncode == 0
    store.open()
    assert isinstance(store.find(made("bad").key), Found), "it can be published again"


def test_a_whole_cache_and_an_empty_one(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    done = mlc_jit("verify")
    assert (done.returncode, done.stdout) == (0, f"No entry is in {place.cache}.\n")
    entry = made()
    before = snapshot(place.cache)
    done = mlc_jit("verify")
    assert done.returncode == 0
    assert done.stdout.startswith(f"1 entry verified, {entry.size} B in ")
    assert snapshot(place.cache) == before
    assert place.daemons() == []


def test_a_home_that_does_not_exist_is_empty_and_not_made(mlc_jit: MlcJit, place: Place) -> None:
    done = mlc_jit("verify", MLC_LLM_HOME=str(place.root / "nowhere"))
    assert (done.returncode, (place.root / "nowhere").exists()) == (0, False)


def test_only_the_keys_that_were_named(made: Made, mlc_jit: MlcJit) -> None:
    one, other = made("one"), made("other")
    DAMAGES["gone"](other)
    assert mlc_jit("verify", one.key[:10]).returncode == 0
    assert mlc_jit("verify", other.key).returncode == 1
    for words, said in ((["xyz"], "not the beginning of a key"), (["0" * 64], "No entry's key begins")):
        done = mlc_jit("verify", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


@pytest.mark.parametrize("folder", [".", ".locks", ".quarantine"])
def test_an_open_folder_is_a_problem_with_the_command_that_closes_it(
    folder: str, made: Made, mlc_jit: MlcJit, place: Place
) -> None:
    made()
    path = place.library / folder
    mode = path.stat().st_mode & 0o777
    path.chmod(0o777)
    done = mlc_jit("verify", "--json")
    (finding,) = report(done)["findings"]
    assert (done.returncode, finding["kind"], finding["path"]) == (1, "unsafe", str(path.resolve()))
    refused = mlc_jit("verify", "--repair")
    assert refused.returncode == 1
    assert finding["remedy"] in refused.stderr
    subprocess.run(finding["remedy"].removeprefix("Run: "), shell=True, check=True)
    assert path.stat().st_mode & 0o022 == 0
    assert mlc_jit("verify").returncode == 0
    path.chmod(mode)


def test_an_entry_that_others_may_write_is_refused_with_the_command(made: Made, mlc_jit: MlcJit) -> None:
    entry = made()
    Path(entry.path).chmod(0o666)
    done = mlc_jit("verify", "--repair", "--json")
    (finding,) = report(done)["findings"]
    assert (done.returncode, finding["kind"], finding["repaired"]) == (1, "foreign", False)
    assert Path(entry.path).exists(), "others decide about it"
    subprocess.run(finding["remedy"].removeprefix("Run: "), shell=True, check=True)
    (note,) = report(mlc_jit("verify", "--json"))["findings"]
    assert (note["kind"], note["level"]) == ("unsealed", "note")
    subprocess.run(note["remedy"].removeprefix("Run: "), shell=True, check=True)
    assert report(mlc_jit("verify", "--json"))["findings"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_entry_of_another_user_is_refused_with_the_command(made: Made, mlc_jit: MlcJit) -> None:
    entry = made()
    os.chown(entry.path, 54321, 54321)
    (finding,) = report(mlc_jit("verify", "--json"))["findings"]
    assert finding["kind"] == "foreign"
    assert finding["remedy"].endswith(f"chown 0 {entry.path}")
    subprocess.run(finding["remedy"].partition(": ")[2], shell=True, check=True)
    assert mlc_jit("verify").returncode == 0


def test_a_manifest_of_a_later_version_is_a_note(made: Made, mlc_jit: MlcJit) -> None:
    entry = made()
    rewrite(entry.manifest_path, lambda old: old.replace(b'"format": 1', b'"format": 99'))
    done = mlc_jit("verify", "--repair", "--json")
    (finding,) = report(done)["findings"]
    assert (done.returncode, finding["kind"], finding["level"]) == (0, "newer", "note")
    assert Path(entry.manifest_path).exists()


def test_leftovers_are_notes(made: Made, mlc_jit: MlcJit, store: Store) -> None:
    entry = made()
    orphan = store.layout.library / f"{'0' * 64}-{'1' * 16}.so"
    orphan.write_bytes(b"x" * 2_000_000)
    (store.layout.staging / ("a" * 16)).mkdir()
    done = mlc_jit("verify")
    assert done.returncode == 0
    assert "1 build that ended early" in done.stdout
    assert "1 artifact without a manifest, 2.0 MB" in done.stdout
    os.utime(orphan, (1, 1))
    with store.staging(entry.key, need=0) as alive:
        mlc_jit("verify", "--repair")
        assert alive.is_dir(), "its owner lives"
    assert not (store.layout.staging / ("a" * 16)).exists()
    assert orphan.exists(), "a rename is as young as its ctime"


def test_quarantine_says_what_and_why_and_is_cleared(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    assert mlc_jit("quarantine").stdout == "Nothing is set aside.\n"
    first, second = made("first"), made("second")
    for entry in (first, second):
        DAMAGES["flipped"](entry)
    mlc_jit("verify", "--repair")
    (place.library / ".quarantine/notes.txt").write_text("mine")
    found = report(mlc_jit("quarantine", "--json"))
    assert {each["key"] for each in found["entries"]} == {first.key, second.key}
    assert all("has the sha256" in each["why"] and each["size"] > first.size for each in found["entries"])
    done = mlc_jit("quarantine", COLUMNS="80")
    assert first.key[:12] in done.stdout
    assert mlc_jit("quarantine", "--clear", first.key[:12]).stdout.startswith("Removed 1 damaged entry")
    assert [each["key"] for each in report(mlc_jit("quarantine", "--json"))["entries"]] == [second.key]
    mlc_jit("quarantine", "--clear")
    assert [path.name for path in (place.library / ".quarantine").iterdir()] == ["notes.txt"]


def test_a_quarantine_without_its_note_is_still_listed(made: Made, mlc_jit: MlcJit, place: Place) -> None:
    DAMAGES["flipped"](made())
    mlc_jit("verify", "--repair")
    (note,) = (place.library / ".quarantine").glob("*/why.json")
    note.write_text("[]")
    (found,) = report(mlc_jit("quarantine", "--json"))["entries"]
    assert found["why"] == "its note can't be read"


def test_beside_a_daemon_that_publishes_and_serves(
    daemon: Daemon, double: Double, client: Clients, mlc_jit: MlcJit
) -> None:
    model = double.model()
    path = client.ask(model).path()
    assert mlc_jit("verify").returncode == 0
    rewrite(path, lambda old: b"?" + old[1:])
    done = mlc_jit("verify", "--repair", "--json")
    (finding,) = [each for each in report(done)["findings"] if each["repaired"]]
    assert finding["again"] == f"mlc-jit compile {model} --device cpu"
    again = mlc_jit(*finding["again"].split()[1:])
    assert again.returncode == 0, "what the finding says to run compiles it again"
    assert mlc_jit("verify").returncode == 0
    assert len(double.starts()) == 2


def test_a_key_that_is_being_made_anew_is_left_to_who_makes_it(made: Made, store: Store, mlc_jit: MlcJit) -> None:
    entry = made()
    rewrite(entry.manifest_path, part_changed)
    with store.lock(entry.key):
        done = mlc_jit("verify", "--repair", "--json")
    (finding,) = report(done)["findings"]
    assert done.returncode == 1
    assert "another process is making it anew" in finding["found"]
    assert Path(entry.manifest_path).exists()


def test_publishing_and_collecting_meanwhile_is_no_damage(made: Made, place: Place, mlc_jit: MlcJit) -> None:
    made("a"), made("b")
    ended = threading.Event()

    def live() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            entry = made("a", f"library {number}".encode() * 1000)
            if number % 3 == 0:  # as a collector does: the manifest first
                Path(entry.manifest_path).unlink()
                Path(entry.path).unlink()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        for _ in range(4):
            found = report(mlc_jit("verify", "--repair", "--json"))["findings"]
            assert [each for each in found if each["level"] == "problem"] == []
    finally:
        ended.set()
        thread.join()
    assert listing(Store(place.cache).layout) == []


def test_reading_steps_back(made: Made, mlc_jit: MlcJit) -> None:
    made()
    assert report(mlc_jit("verify", "--json"))["idle_io"] is (sys.platform == "linux")


def test_many_entries_are_counted_while_they_are_read(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlc_jitd.upkeep import verify

    for number in range(5):
        made(str(number))
    monkeypatch.setattr(verify, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(verify, "step_back", lambda: False)
    told: list[Any] = []
    from argparse import Namespace

    whole = verify.run(Namespace(keys=[], repair=False, recompile=False), told.append)
    assert [each["done"] for each in told] == [1, 2, 3, 4, 5]
    assert told[-1]["of"] == whole["whole"] == 5
    assert whole["bytes"] == told[-1]["bytes"] > 0


@pytest.mark.parametrize("width", [40, 80, 110])
def test_a_finding_fits_the_screen(width: int) -> None:
    finding = {
        "kind": "damaged", "level": "problem", "key": "ab" * 32, "found": "a word " * 30, "remedy": "run this " * 20,
        "repaired": False,
    }  # fmt: skip
    lines = shown.finding_lines(finding, width=width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("damaged   abababababab  A word")


def test_progress_is_written_over_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = shown.Progress()
    progress.show({"done": 12, "of": 10_000, "bytes": 3_200_000})
    progress.end()
    said = capsys.readouterr().err
    assert said.startswith("\rmlc-jit: 12 of 10,000 entries, 3.2 MB\r")
    assert said.endswith("\r")


def test_the_key_of_a_prefix() -> None:
    keys = ["aa" * 32, "ab" * 32]
    assert entries.chosen(["ab"], keys) == [keys[1]]
    with pytest.raises(ValueError, match="2 keys begin with"):
        entries.chosen(["a"], keys)


def test_a_layer_is_looked_at_and_never_repaired(
    made: Made, mlc_jit: MlcJit, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = made("bad")
    DAMAGES["flipped"](bad)
    layer = place.root / "layer"
    place.cache.rename(layer)
    before = snapshot(layer)
    monkeypatch.setenv("MLC_JITD_LAYERS", f"{layer}:{place.root}/nowhere")
    done = mlc_jit("verify", "--repair", "--json")
    damaged, missing = report(done)["findings"]
    assert (done.returncode, damaged["kind"], damaged["repaired"]) == (1, "damaged", False)
    assert str(layer) in damaged["found"]
    assert "A layer is repaired by whoever makes it" in damaged["remedy"]
    assert (missing["kind"], missing["level"]) == ("layer", "note")
    assert snapshot(layer) == before


def test_keys_that_lie_in_a_layer_can_be_named(
    made: Made, mlc_jit: MlcJit, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = made("bad"), made("good")
    DAMAGES["flipped"](bad)
    place.cache.rename(place.root / "layer")
    monkeypatch.setenv("MLC_JITD_LAYERS", f"{place.root}/layer:{place.root}/nowhere")
    found = report(mlc_jit("verify", good.key[:12], "--json"))
    assert (found["entries"], found["whole"], found["findings"]) == (1, 1, [])
    (finding,) = report(mlc_jit("verify", bad.key, "--json"))["findings"]
    assert finding["key"] == bad.key
