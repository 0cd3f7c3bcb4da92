"""``verify KEY --recompile``: the same configuration again, and a library that computes otherwise is found."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until
from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.store import About, PartRecord, Store, ToolchainRecord

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from harness.daemons import Daemon, Place
    from harness.doubles import Double
    from mlc_jitd.store import Entry

    MlcJit = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.timeout(90)  # commands one after another: seconds here, more on a full host

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "num_hidden_layers": 1, "rms_norm_eps": 1e-5, "vocab_size": 67, "context_window_size": 128,
    "prefill_chunk_size": 64, "max_batch_size": 2,
}  # fmt: skip


def proof(done: subprocess.CompletedProcess[str]) -> Any:
    assert "Traceback" not in done.stderr, done.stderr
    (found,) = json.loads(done.stdout)["recompiled"]
    return found


def key_in(place: Place) -> str:
    (manifest,) = place.manifests()
    return manifest.stem


def left(place: Place) -> list[str]:
    return sorted(path.name for path in place.tmp.iterdir())


@pytest.mark.tvm
@pytest.mark.timeout(300)
def test_the_embedded_toolchain(model: Callable[..., Path], mlc_jit: MlcJit, place: Place) -> None:
    asked = {"quantization": "q0f32", "model_type": "llama"}
    words = ("--device", "cpu", "--quiet", "--overrides", "context_window_size=96")
    assert mlc_jit("compile", model("one", **asked, model_config=TINY), *words, limit=120).returncode == 0
    key = key_in(place)
    before = sorted(place.library.glob("*-*"))
    done = mlc_jit("verify", key[:12], "--recompile", "--json", limit=120)
    found = proof(done)
    assert (done.returncode, found["verdict"], found["why"]) == (0, "equal", ""), found
    assert found["comparison"]["functions"]["decode"]["values"] > 0
    assert sorted(place.library.glob("*-*")) == before, "nothing is published"
    assert left(place) == []

    # A library that is whole, and not what its key says: only its computing tells.
    store = Store(place.cache)
    store.open()
    manifest = store.manifest(key)
    assert manifest is not None
    told = {name: getattr(manifest, name) for name in About.__dataclass_fields__}
    right = (store.layout.library / manifest.artifact).read_bytes()
    wrong = right.replace(struct.pack("<f", TINY["rms_norm_eps"]), struct.pack("<f", 1e-2))
    assert wrong != right
    with store.lock(key), store.staging(key, need=0) as folder:
        (folder / "lib").write_bytes(wrong)
        store.publish(key, folder / "lib", About(**told))
    assert mlc_jit("verify", key).returncode == 0, "the digest says nothing of it"
    done = mlc_jit("verify", key, "--recompile", limit=120)
    assert done.returncode == 1
    assert f"{key[:12]}  different: " in done.stdout
    assert "differ, by up to" in done.stdout


def test_everything_at_once_is_refused(mlc_jit: MlcJit) -> None:
    done = mlc_jit("verify", "--recompile")
    assert done.returncode == 2
    assert "Name the keys" in done.stderr


def publish(place: Place, target: Any, suffix: str = "so", config: str = "{}") -> Entry:
    store = Store(place.cache)
    store.open()
    values = {"target": {"target": target}, "opt": "O2", "overrides": {}, "environment": {}}
    parts = tuple(part(name, values.get(name)) for name in PART_NAMES)
    about = About(
        suffix=suffix,
        toolchain=ToolchainRecord(name="mlc_llm", interpreter="/nowhere/python"),
        parts={each.name: PartRecord(sha256=each.sha256, value=each.value) for each in parts},
        device="cuda:0",
        config=config,
    )
    key = key_of(parts)
    with store.lock(key), store.staging(key, need=0) as folder:
        (folder / "lib").write_bytes(b"library")
        return store.publish(key, folder / "lib", about)


@pytest.mark.parametrize(
    ("target", "suffix", "why"),
    [
        ({"kind": "cuda"}, "so", "compiled for cuda, and libraries are run on the CPU alone"),
        ({"kind": "opencl"}, "tar", "a .tar is no library of this host"),
    ],
)
def test_what_can_not_be_run_here_is_said_plainly_before_anything_is_compiled(
    target: Any, suffix: str, why: str, mlc_jit: MlcJit, place: Place, double: Double
) -> None:
    entry = publish(place, target, suffix)
    done = mlc_jit("verify", entry.key, "--recompile", "--json")
    found = proof(done)
    assert (done.returncode, found["verdict"]) == (1, "not-compared")
    assert why in found["why"]
    assert found["remedy"]
    assert double.starts() == []


def test_an_entry_without_its_config_says_how_to_get_one(mlc_jit: MlcJit, place: Place) -> None:
    entry = publish(place, {"kind": "llvm"}, config="")
    found = proof(mlc_jit("verify", entry.key, "--recompile", "--json"))
    assert (found["verdict"], found["reason"]) == ("failed", "no-config")
    assert "REDO" in found["remedy"]


def test_an_interpreter_that_is_gone(mlc_jit: MlcJit, place: Place) -> None:
    entry = publish(place, {"kind": "llvm"})
    found = proof(mlc_jit("verify", entry.key, "--recompile", "--json"))
    assert found["verdict"] == "failed"
    assert "/nowhere/python" in found["why"] or "model_type" in found["why"]
    assert left(place) == []


def test_a_compiler_that_was_replaced_has_another_identity(
    daemon: Daemon, double: Double, mlc_jit: MlcJit, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = double.install()
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert mlc_jit("compile", double.model(), "--device", "cpu").returncode == 0
    (site / "mlc_llm" / "libinfo.py").write_text('__version__ = "2.0"\n')
    done = mlc_jit("verify", key_in(place), "--recompile", "--json")
    found = proof(done)
    assert (done.returncode, found["verdict"], found["reason"]) == (1, "failed", "another-identity")
    assert "(toolchain" in found["why"]
    assert len(double.starts()) == 1


def test_the_compile_is_made_outside_the_cache_and_what_the_double_makes_is_no_library(
    daemon: Daemon, double: Double, mlc_jit: MlcJit, place: Place
) -> None:
    assert mlc_jit("compile", double.model(), "--device", "cpu", "--opt", "O1").returncode == 0
    until(lambda: status().counters.get("upstream_placed", 0) == 2, what="copies under upstream's names")
    before = sorted(place.library.glob("[!.]*"))  # the daemon keeps notes of its own in hidden files meanwhile
    done = mlc_jit("verify", key_in(place), "--recompile", "--json")
    found = proof(done)
    assert len(double.starts()) == 2, found
    assert (done.returncode, found["verdict"]) == (1, "not-compared")
    assert sorted(place.library.glob("[!.]*")) == before
    assert left(place) == []


def test_a_compile_that_fails_the_second_time_is_told_with_its_cause(
    daemon: Daemon, double: Double, mlc_jit: MlcJit, place: Place
) -> None:
    assert mlc_jit("compile", double.model(), "--device", "cpu").returncode == 0
    found = proof(mlc_jit("verify", key_in(place), "--recompile", "--json", MLC_DOUBLE_LIBRARY="/nowhere/lib.so"))
    assert found["verdict"] == "failed"
    assert found["why"].startswith("Compiling ")
    assert "/nowhere/lib.so" in found["why"]
    assert "look at what changed" in found["remedy"]
