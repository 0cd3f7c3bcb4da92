"""Risk: somebody waits minutes for a compile, or is refused, and nothing says why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status
from mlc_jit import NotCachedError, jit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


@pytest.fixture
def no_daemon(place: Place) -> dict[str, str]:
    """An environment in which no daemon can be started."""
    (place.root / "occupied").write_text("a file where the folder should be")
    return {"MLC_JITD_RUNTIME_DIR": str(place.root / "occupied")}


@pytest.fixture
def site(double: Double, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The double's packages, to edit."""
    folder = double.install()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def explained(mlc_jit: Callable[..., CompletedProcess[str]], *words: Any) -> dict[str, Any]:
    done = mlc_jit("explain", *words, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_miss_has_its_reason_in_the_log_and_the_result(
    daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    first = double.model()
    jit(first, {}, "cpu")
    done = mlc_jit("compile", "--json", "--quiet", double.model(vocab_size=513), "--device", "cpu", "--opt", "O1")
    facts = json.loads(done.stdout)
    assert facts["reason"] == "absent"
    assert facts["detail"].endswith("differs: vocab_size 512 there, 513 here; opt O2 there, O1 here")
    again = json.loads(mlc_jit("compile", "--json", first, "--device", "cpu", "--opt", "O1").stdout)
    assert (again["source"], again["detail"]) == ("hit", "")
    misses = [line for line in daemon.log.read_text().splitlines() if "miss (absent)" in line]
    assert len(misses) == 2
    assert "the cache is empty" in misses[0]
    assert facts["detail"] in misses[1]


def test_readonly_says_what_is_there_instead(
    daemon: Daemon, double: Double, client: Clients, no_daemon: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model()
    jit(model, {"max_batch_size": 4}, "cpu")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError, match="override max_batch_size 4 there, not given here") as caught:
        jit(model, {}, "cpu")
    assert caught.value.reason == "absent"
    without = client.ask(model, **no_daemon).error()
    assert "override max_batch_size 4 there, not given here" in without["text"]
    assert len(double.starts()) == 1


def test_explain_compiles_nothing_and_needs_no_daemon(
    double: Double,
    place: Place,
    start_daemon: Callable[..., Daemon],
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    model = double.model()
    empty = explained(mlc_jit, model)
    assert (empty["hit"], empty["reason"], empty["words"]) == (False, "absent", "the cache is empty")
    assert [part["name"] for part in empty["parts"]][:3] == ["format", "model", "overrides"]
    assert place.daemons() == []
    start_daemon()
    assert explained(mlc_jit, model) == empty
    assert double.starts() == []
    path = jit(model, {}, "cpu").model_lib_path
    found = explained(mlc_jit, model)
    assert (found["hit"], found["path"], found["key"]) == (True, path, empty["key"])
    assert len(double.starts()) == 1
    assert status().counters["compiles"] == 1
    miss = explained(mlc_jit, model, "--overrides", "max_batch_size=8", "--opt", "O3")
    (near,) = miss["nearest"]
    assert near["key"] == found["key"]
    assert {each["part"]: (each["there"], each["here"]) for each in near["differences"]} == {
        "overrides": ("", "8"),
        "opt": ('"O2"', '"O3"'),
    }


def test_explain_on_a_terminal(
    daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    hit = mlc_jit("explain", model, "--device", "cpu").stdout
    assert hit.startswith("HIT")
    assert path in hit
    edited = double.model("edited", context_window_size=64)
    miss = mlc_jit("explain", edited, "--device", "cpu").stdout
    assert miss.startswith("MISS")
    assert "context_window_size 128 there, 64 here" in miss
    assert max(map(len, miss.splitlines())) <= 80


def test_an_edited_file_of_the_toolchain_is_named(
    daemon: Daemon, double: Double, site: Path, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    model = double.model()
    jit(model, {}, "cpu")
    source = site / "mlc_llm" / "interface" / "compiler_flags.py"
    source.write_text(source.read_text() + "\n# a fix\n")
    words = explained(mlc_jit, model)["words"]
    assert words.endswith("differs: the toolchain's file mlc_llm/interface/compiler_flags.py was edited")
    (site / "mlc_llm" / "libinfo.py").write_text('__version__ = "9.9"\n')
    assert explained(mlc_jit, model)["words"].endswith("compiled with mlc_llm 0.0.double, now 9.9")


def test_a_damaged_entry_is_the_reason(daemon: Daemon, double: Double, place: Place) -> None:
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    (artifact,) = place.artifacts()
    artifact.chmod(0o644)
    artifact.write_bytes(b"damage")
    assert jit(model, {}, "cpu").model_lib_path == path
    line = next(line for line in daemon.log.read_text().splitlines() if "miss (damaged)" in line)
    assert str(artifact) in line
    assert "instead of" in line


@pytest.mark.parametrize("words", [("--overrides", "nothing=1"), ("--opt", "O9"), ("--overrides", "broken")])
def test_what_can_not_be_asked_can_not_be_explained(
    daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]], words: tuple[str, ...]
) -> None:
    done = mlc_jit("explain", double.model(), "--device", "cpu", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_compiler_that_is_slow_to_answer_is_waited_for(
    start_daemon: Callable[..., Daemon],
    double: Double,
    mlc_jit: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_daemon(MLC_JITD_RESOLVE_SECONDS="5")
    monkeypatch.setenv("MLC_JITD_DAEMON_SILENCE_SECONDS", "3")  # heartbeats come every 2 s
    monkeypatch.setenv("MLC_DOUBLE_RESOLVE", "hang")
    done = mlc_jit("explain", double.model(), "--device", "cpu")
    assert done.returncode == 1
    assert "within 5 s" in done.stderr
    assert "MLC_JITD_RESOLVE_SECONDS" in done.stderr
