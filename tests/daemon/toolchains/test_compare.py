"""Two libraries run beside each other: equal ones are equal in everything, and each kind of difference is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlc_jit.variables import collect
from mlc_jitd.comparison import Comparison, cannot_run, compare

INSIDE = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains/tvm/inside"
TARGET = '{"kind": "llvm", "mcpu": "x86-64-v3"}' if os.uname().machine == "x86_64" else '{"kind": "llvm"}'
CONFIG = {
    "model_type": "llama",
    "quantization": "q0f32",
    "version": "0.1.0",
    "model_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "vocab_size": 67,
        "context_window_size": 128,
        "prefill_chunk_size": 64,
        "max_batch_size": 3,
    },
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**CONFIG, "model_config": {**CONFIG["model_config"], **fields}}  # type: ignore[dict-item]


CONFIGS = {
    "one": CONFIG,
    "again": CONFIG,
    "norm": changed(rms_norm_eps=1e-3),
    "wider": changed(intermediate_size=64),
}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compiled libraries, by name."""
    pytest.importorskip("tvm")
    found = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        source = folder / "mlc-chat-config.json"
        source.write_text(json.dumps(config))
        command = [sys.executable, "-P", str(INSIDE / "compile.py"), "--config", str(source), "--target", TARGET]
        found[name] = folder / "lib.so"
        done = subprocess.run(
            [*command, "--output", str(found[name])], capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr
    return found


def run(first: Path, second: Path, scratch: Path, config: Any = CONFIG, **more: Any) -> Comparison:
    return compare(
        sys.executable,
        first,
        second,
        config=json.dumps(config).encode(),
        environment=tuple(collect(os.environ).items()),
        scratch=scratch,
        **more,
    )


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_equal_configurations_compute_the_same_in_every_function(libraries: dict[str, Path], tmp_path: Path) -> None:
    told: list[str] = []
    found = run(libraries["one"], libraries["again"], tmp_path, report=told.append)
    assert (found.equal, found.why) == (True, "")
    assert {each["verdict"] for each in found.functions.values()} == {"equal"}
    assert {each["skipped"] for each in found.functions.values()} == {0}
    assert set(found.functions) <= set(told)
    usage = {"prefill", "decode", "batch_prefill", "batch_decode", "batch_verify", "embed", "get_logits"}
    assert usage | {f"{each}_to_last_hidden_states" for each in usage if "prefill" in each} <= set(found.functions)
    kernels = found.details["kernels"]
    assert "linear" in kernels["called"]
    assert "batch_tree_attn" in kernels["by_cache"]
    assert all(name.startswith("reshape") for name in kernels["not_called"])
    assert found.details["names"] == {"first": [], "second": []}
    assert found.details["memory"]["needed"] > 0


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_a_difference_in_one_number_is_seen_where_it_counts(libraries: dict[str, Path], tmp_path: Path) -> None:
    found = run(libraries["one"], libraries["norm"], tmp_path)
    assert found.equal is False
    assert "values of output 0 differ, by up to" in found.why
    apart = {name for name, each in found.functions.items() if each["verdict"] == "different"}
    assert {"prefill", "decode", "batch_verify_to_last_hidden_states"} <= apart
    assert "embed" not in apart
    assert "get_logits" not in apart
    assert found.functions["prefill"]["largest"] > 0
    assert found.details["metadata"] == []


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_another_shape_is_a_difference_and_no_crash(libraries: dict[str, Path], tmp_path: Path) -> None:
    found = run(libraries["one"], libraries["wider"], tmp_path)
    assert found.equal is False
    assert "params" in found.details["metadata"]
    assert found.functions["prefill"]["why"].startswith("only the second fails")


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_a_seed_gives_the_same_inputs_again(libraries: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first = run(libraries["one"], libraries["norm"], tmp_path / "a", seed=3)
    second = run(libraries["one"], libraries["norm"], tmp_path / "b", seed=3)
    assert first.functions == second.functions


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_what_does_not_fit_the_memory_is_refused_with_figures(libraries: dict[str, Path], tmp_path: Path) -> None:
    large = changed(vocab_size=200_000_000)
    found = run(libraries["one"], libraries["again"], tmp_path, large, memory=2 << 30)
    assert found.equal is None
    assert "MiB of memory for weights, caches and temporaries, and 2,048 MiB are free" in found.why
    assert found.functions == {}


@pytest.mark.tvm
@pytest.mark.timeout(240)
def test_what_is_no_library_can_not_be_loaded(libraries: dict[str, Path], tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"\x7fELF but no more", libraries["one"].read_bytes()[:20_000])):
        broken = tmp_path / f"{number}.so"
        broken.write_bytes(content)
        folder = tmp_path / str(number)
        folder.mkdir()
        found = run(libraries["one"], broken, folder)
        assert found.equal is None
        assert found.why.startswith(("the second library can't be loaded", "a library crashed"))


def python_that(tmp_path: Path, script: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('echo "mlc-jitd compare: prefill" >&2; kill -SEGV $$', "a library crashed: signal 11 while running prefill"),
        ("kill -ILL $$", "a library crashed: signal 4 while loading them"),
        (
            'echo "ZeroDivisionError: by zero" >&2; exit 1',
            "the comparison failed while loading them: ZeroDivisionError",
        ),
        ('echo "mlc-jitd compare: decode" >&2; exec sleep 60', "it was ended while running decode"),
    ],
)
def test_a_library_that_crashes_or_hangs_is_an_outcome(tmp_path: Path, script: str, why: str) -> None:
    library = tmp_path / "lib.so"
    found = compare(
        python_that(tmp_path, script), library, library, config=b"{}", environment=(), scratch=tmp_path, seconds=2
    )
    assert found.equal is None
    assert found.why.startswith(why)


def test_without_what_running_takes_it_is_said_so(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    library = tmp_path / "lib.so"
    found = compare(
        str(bare / "bin/python"), library, library, config=b"null", environment=(), scratch=tmp_path, seconds=15
    )
    assert found.equal is None
    assert found.why.startswith("the toolchain's interpreter lacks what running a library takes: No module named")


MACHINE = os.uname().machine


@pytest.mark.parametrize(
    ("target", "suffix", "why"),
    [
        ({"kind": "llvm", "mtriple": f"{MACHINE}-unknown-linux-gnu"}, "so", ""),
        ({"kind": "llvm"}, "so", ""),
        ({"kind": {"name": "llvm"}}, "dylib", ""),
        ({"kind": "cuda", "arch": "sm_90"}, "so", "it was compiled for cuda, and libraries are run on the CPU alone"),
        ({"kind": "llvm", "mtriple": "riscv64-linux-gnu"}, "so", "it was compiled for riscv64, and this host is"),
        ({"kind": "opencl"}, "tar", "a .tar is no library of this host"),
        ({"kind": "webgpu"}, "wasm", "a .wasm is no library of this host"),
        (None, "so", "it was compiled for an unknown target"),
    ],
)
def test_what_can_be_run_here(target: Any, suffix: str, why: str) -> None:
    found = cannot_run(target, suffix)
    assert found == why if not why else found.startswith(why)
