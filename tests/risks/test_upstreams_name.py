"""Risk: programs that call upstream's own ``jit()`` on this host lose what worked, or get what they did not ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until
from mlc_jit import NotCachedError, jit

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


@pytest.fixture
def no_daemon(place: Place) -> dict[str, str]:
    """An environment in which no daemon can be started."""
    (place.root / "occupied").write_text("a file where the folder should be")
    return {"MLC_JITD_RUNTIME_DIR": str(place.root / "occupied")}


def names(mlc_jit: Callable[..., CompletedProcess[str]], model: Path, device: str = "cpu") -> dict[str, dict[str, str]]:
    """By device text: the file that upstream would look for, and what it holds."""
    done = mlc_jit("explain", model, "--device", device, "--json")
    assert done.returncode == 0, done.stderr
    return {each["device"]: each for each in json.loads(done.stdout)["upstream"]}


def copies(place: Place) -> list[Path]:
    return sorted(path for path in place.library.glob("*") if len(path.stem) == 32 and path.is_file())


def named(count: int) -> None:
    until(lambda: status().counters.get("upstream_placed", 0) >= count, what="copies under upstream's names")


def test_a_published_library_is_also_under_the_names_that_upstream_looks_for(
    daemon: Daemon, double: Double, place: Place, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    model = double.model()
    path = Path(jit(model, {}, "cpu").model_lib_path)
    named(2)
    found = names(mlc_jit, model)
    assert {device: each["holds"] for device, each in found.items()} == {"cpu": "entry", "cpu:0": "entry"}
    assert copies(place) == sorted(place.library / each["file"] for each in found.values())
    for copy in copies(place):
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_ino != path.stat().st_ino
        assert (copy.stat().st_mode & 0o777, copy.stat().st_nlink) == (0o644, 1)
    assert len(double.starts()) == 1


def test_auto_is_what_it_stands_for(daemon: Daemon, double: Double, mlc_jit: Callable[..., Any]) -> None:
    jit(double.model(), {}, "auto")
    named(2)
    found = names(mlc_jit, double.model(), "cpu:0")
    assert found["cpu:0"]["holds"] == "entry"


def test_a_hit_asks_no_compiler_for_a_name_when_the_entry_has_one(
    start_daemon: Callable[..., Daemon], double: Double, place: Place
) -> None:
    first = start_daemon()
    model = double.model()
    jit(model, {}, "cpu")
    named(2)
    assert first.stop() == 0
    for memory in (place.library / ".identity").glob("name-*.json"):
        memory.unlink()
    second = start_daemon()
    jit(model, {}, "cpu")
    assert second.stop() == 0  # after what was begun
    assert list((place.library / ".identity").glob("name-*.json")) == []
    assert len(copies(place)) == 2


def test_a_fresh_daemon_gives_an_old_entry_the_name_that_it_lacks(
    start_daemon: Callable[..., Daemon], double: Double, place: Place
) -> None:
    model = double.model()
    first = start_daemon(MLC_JITD_UPSTREAM_NAMES="off")
    jit(model, {}, "cpu")
    assert first.stop() == 0
    assert copies(place) == []
    start_daemon()
    jit(model, {}, "cpu")
    named(2)
    assert len(double.starts()) == 1


def test_a_redo_renews_the_copy(daemon: Daemon, double: Double, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    model = double.model(told={"output": "one"})
    jit(model, {}, "cpu:0")
    named(1)
    (copy,) = copies(place)
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    path = Path(jit(model, {}, "cpu:0").model_lib_path)
    assert copy.read_bytes() == path.read_bytes()
    assert "miss (redo)" in daemon.log.read_text()


@pytest.mark.parametrize("why", ["degraded", "variable"])
def test_what_upstream_s_hash_does_not_tell_apart_is_not_put_there(
    why: str, daemon: Daemon, double: Double, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "variable":
        monkeypatch.setenv("MLC_MULTI_ARCH", "80,90")
    jit(double.model("special", told={"degraded": True} if why == "degraded" else None), {}, "cpu")
    monkeypatch.delenv("MLC_MULTI_ARCH", raising=False)
    jit(double.model("plain", vocab_size=7), {}, "cpu")
    named(2)  # one at a time: the special one's turn is over
    assert len(copies(place)) == 2


def test_a_file_of_upstreams_is_served_where_compiling_is_forbidden(
    daemon: Daemon,
    double: Double,
    place: Place,
    client: Clients,
    no_daemon: dict[str, str],
    mlc_jit: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = double.model()
    theirs = place.library / names(mlc_jit, model)["cpu"]["file"]
    theirs.write_bytes(b"theirs")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    for _ in range(3):
        assert jit(model, {}, "cpu").model_lib_path == str(theirs)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(theirs) in warnings[0]
    assert "which compiler made it is not known" in warnings[0]
    assert client.ask(model, **no_daemon).path() == str(theirs)
    facts = json.loads(mlc_jit("compile", "--json", model, "--device", "cpu").stdout)
    assert (facts["path"], facts["source"]) == (str(theirs), "hit")
    assert "not known" in facts["warning"]
    with pytest.raises(NotCachedError):
        jit(model, {}, "cpu:0")  # upstream, too, takes it for another device

    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    ours = jit(model, {}, "cpu").model_lib_path
    assert ours != str(theirs)
    until(lambda: status().counters.get("upstream_not_ours", 0) == 1, what="a name that is taken")
    assert theirs.read_bytes() == b"theirs"
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    assert jit(model, {}, "cpu").model_lib_path == ours
    assert status().counters["stopgaps"] == 4


@pytest.mark.parametrize("doubt", ["open", "link", "empty"])
def test_a_doubtful_one_is_not(
    doubt: str,
    daemon: Daemon,
    double: Double,
    place: Place,
    mlc_jit: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = double.model()
    theirs = place.library / names(mlc_jit, model)["cpu"]["file"]
    if doubt == "link":
        theirs.symlink_to(__file__)
    else:
        theirs.write_bytes(b"theirs" if doubt == "open" else b"")
        theirs.chmod(0o666 if doubt == "open" else 0o644)
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    said = {"open": "written by everybody", "link": "no regular file", "empty": "is empty"}[doubt]
    with pytest.raises(NotCachedError, match=said):
        jit(model, {}, "cpu")


def test_none_is_taken_for_what_a_variable_changes(
    daemon: Daemon,
    double: Double,
    place: Place,
    mlc_jit: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = double.model()
    (place.library / names(mlc_jit, model)["cpu"]["file"]).write_bytes(b"theirs")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    monkeypatch.setenv("MLC_MULTI_ARCH", "80,90")
    with pytest.raises(NotCachedError):
        jit(model, {}, "cpu")


def test_in_a_home_that_was_copied_ours_is_not_taken_for_upstreams(
    start_daemon: Callable[..., Daemon], double: Double, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = double.install()
    monkeypatch.setenv("PYTHONPATH", str(site))
    model = double.model()
    first = start_daemon()
    jit(model, {}, "cpu:0")
    named(1)
    assert first.stop() == 0
    for each in copies(place):  # as cp -r leaves it
        each.write_bytes(each.read_bytes())
    source = site / "mlc_llm" / "libinfo.py"
    source.write_text(source.read_text() + "\n# a fix\n")
    start_daemon()
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError, match=r"libinfo\.py was edited"):
        jit(model, {}, "cpu:0")


def test_a_copy_of_ours_is_never_taken_for_what_an_edited_toolchain_would_make(
    daemon: Daemon, double: Double, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = double.install()
    monkeypatch.setenv("PYTHONPATH", str(site))
    model = double.model()
    old = Path(jit(model, {}, "cpu:0").model_lib_path)
    named(1)
    source = site / "mlc_llm" / "libinfo.py"
    source.write_text(source.read_text() + "\n# a fix\n")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError, match=r"libinfo\.py was edited"):
        jit(model, {}, "cpu:0")
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    jit(model, {}, "cpu:0")
    until(lambda: status().counters.get("upstream_another_toolchain", 0) == 1, what="a name that is taken")
    (copy,) = copies(place)
    assert copy.read_bytes() == old.read_bytes()


def test_a_name_that_two_entries_share_stays_the_first_ones(
    daemon: Daemon, double: Double, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = double.model(), double.model("second", vocab_size=7)  # its config class drops this field
    path = Path(jit(first, {}, "cpu:0").model_lib_path)
    named(1)
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError, match="vocab_size 512 there, 7 here"):
        jit(second, {}, "cpu:0")
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    assert jit(second, {}, "cpu:0").model_lib_path != str(path)
    until(lambda: status().counters.get("upstream_another_entry", 0) == 1, what="a name that is taken")
    assert [copy.read_bytes() for copy in copies(place)] == [path.read_bytes()]


def test_without_a_daemon_copies_are_made_too(
    double: Double, place: Place, client: Clients, no_daemon: dict[str, str]
) -> None:
    asking = client.ask(double.model(told={"sleep": 1.5}), **no_daemon)
    path = Path(asking.path())
    assert {copy.read_bytes() for copy in copies(place)} == {path.read_bytes()}
    assert len(copies(place)) == 2


def test_copies_of_a_removed_entry_go_at_the_next_start(
    start_daemon: Callable[..., Daemon], double: Double, place: Place
) -> None:
    first = start_daemon()
    jit(double.model(), {}, "cpu")
    named(2)
    assert first.stop() == 0
    for path in (*place.manifests(), *place.artifacts()):
        path.unlink()
    start_daemon()
    until(lambda: not copies(place), what="copies that go")


def files(mlc_jit: Callable[..., CompletedProcess[str]], *words: Any) -> dict[str, dict[str, Any]]:
    report = json.loads(mlc_jit("adopt", *words, "--json").stdout)
    return {each["file"]: each for each in report["files"]}


@pytest.mark.timeout(60)
def test_adopt_says_whose_is_what(
    daemon: Daemon, double: Double, place: Place, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    model, other = double.model(), double.model("other", hidden_size=65)
    jit(other, {}, "cpu")
    named(2)
    theirs = place.library / names(mlc_jit, model)["cpu"]["file"]
    theirs.write_bytes(b"theirs")
    found = files(mlc_jit, model, other, "--device", "cpu", "--all")
    assert len(found) == 3
    assert (found[theirs.name]["made_by"], found[theirs.name]["model"]) == ("unknown", str(model))
    assert found[theirs.name]["device"] == "cpu"
    assert {each["made_by"] for name, each in found.items() if each["model"] == str(other)} == {"mlc-jitd"}
    assert len(place.manifests()) == 1
    assert theirs.read_bytes() == b"theirs"


def test_adopt_makes_nothing_of_what_upstream_left(
    place: Place, mlc_jit: Callable[..., CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "left nothing" in mlc_jit("adopt").stdout
    stranger = place.library / f"{'f' * 32}.so"
    place.library.mkdir(exist_ok=True)
    stranger.write_bytes(b"theirs")
    stranger.chmod(0o666)
    (found,) = files(mlc_jit).values()
    assert (found["file"], found["made_by"], found["model"]) == (stranger.name, "unknown", "")
    assert "chmod" in found["remedy"]
    shown = mlc_jit("adopt").stdout
    assert "not known" in shown
    assert "none becomes an entry" in shown
    assert "everybody" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert [path.name for path in place.library.iterdir()] == [stranger.name]
