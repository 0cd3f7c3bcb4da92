"""Reading a compiler's log: stages, the root cause, what it fell back from.

The excerpts in ``logs/`` are from runs of mlc-llm 79d603f0 on apache-tvm 0.26.0, each provoked with a broken copy of
the tiny config; places are replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_jitd.toolchains import Stage, toolchain

LOGS = Path(__file__).parent / "logs"
MLC, TVM = toolchain("mlc_llm"), toolchain("tvm")


def log(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("assertion", "AssertionError: num_kv_heads(2) must be divisible by tensor_parallel_shards"),
        ("bad_argument", "argument --max_batch_size: invalid int value: 'x'"),
        ("bad_target", 'ValueError: Invalid target: {"kind":"nonsense","mtriple":"x"}'),
        (
            "bare_assertion",
            "AssertionError: assert self.num_attention_heads % self.num_key_value_heads == 0 (llama_model.py:88)",
        ),
        ("error_before_a_module", "ValueError: Argument 0 type mismatch: expected R.Tensor"),
        ("key_error", "KeyError: 'q4f32_9'"),
        ("missing_linker", "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent/g++'"),
        ("missing_field", "TypeError: LlamaConfig.__init__() missing 1 required positional argument: 'hidden_size'"),
        ("segmentation_fault", "the compiler crashed (segmentation fault) in tvm::ffi::ToJSONGraph"),
        ("unknown_model_type", "ValueError: Unknown model type: lama. Available ones: ['llama'"),
    ],
)
def test_the_root_cause_of_real_failures(name: str, said: str) -> None:
    cause = MLC.root_cause(log(name))
    assert cause is not None
    assert cause.startswith(said)
    assert "\n" not in cause
    assert len(cause) <= 500


@pytest.mark.parametrize("tail", ["", "\n\n", log("good"), "Killed\n", "[2026] INFO nothing: Error: of note"])
def test_a_log_that_names_no_cause(tail: str) -> None:
    assert MLC.root_cause(tail) is None


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        ("Traceback (most recent call last):\nMemoryError\n", "MemoryError"),
        ("junk\ntvm.error.InternalError: Check failed: (x) is false\n", "InternalError: Check failed: (x) is false"),
        ("LLVM ERROR: out of memory\n", "LLVM ERROR: out of memory"),
        (
            "RuntimeError: Compilation error:\n/usr/bin/ld: cannot find -lstdc++\ncollect2: error: ld returned 1\n",
            "RuntimeError: Compilation error: /usr/bin/ld: cannot find -lstdc++",
        ),
        ("/tmp/x.c:1:2: fatal error: foo.h: No such file\n", "/tmp/x.c:1:2: fatal error: foo.h: No such file"),
        (
            "Traceback (most recent call last):\nValueError: one\n\nTraceback (most recent call last):\nKeyError: 2\n",
            "KeyError: 2",
        ),
        ("\x1b[31mValueError: coloured\x1b[0m\n", "ValueError: coloured"),
    ],
)
def test_other_shapes_of_a_cause(tail: str, cause: str) -> None:
    assert MLC.root_cause(tail) == cause


def test_a_long_cause_is_cut() -> None:
    cause = MLC.root_cause("ValueError: " + "x" * 10_000)
    assert cause is not None
    assert len(cause) == 500


def test_the_stages_of_a_real_compile_come_in_order() -> None:
    stages = [stage.name for line in log("good").splitlines() if (stage := MLC.stage(line))]
    assert stages == [
        "importing",
        "target",
        "model",
        "export",
        "optimize",
        "graph passes",
        "lowering",
        "kernel passes",
        "scheduling",
        "bytecode",
        "external modules",
        "code generation",
        "done",
    ]


@pytest.mark.parametrize("line", ["", "Found model configuration", "[x] INFO a.py:1: Generated", "\x1b[0m"])
def test_no_stage(line: str) -> None:
    assert MLC.stage(line) is None


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("Error caught when creating FlashInfer PagedKVCache: no nvcc", "flashinfer"),
        (log("weak_mcpu"), "mcpu"),
    ],
)
def test_a_fallback_is_a_degraded_library(message: str, what: str) -> None:
    found = MLC.degraded(f"[2026-01-01 00:00:00] INFO dispatch_kv_cache_creation.py:236: {message}")
    assert found is not None
    assert found.startswith(what + ": ")


@pytest.mark.parametrize(
    "message",
    [
        "flashinfer is not supported on CUDA arch < 80",
        "FlashInfer only supports group size in [1, 4, 6, 8], but got 3. Skip and fallback to default implementation.",
    ],
)
def test_what_follows_from_config_and_target_is_no_degradation(message: str) -> None:
    assert MLC.degraded(f"[2026-01-01 00:00:00] WARNING attention.py:1: {message}") is None


def test_a_good_compile_is_not_degraded() -> None:
    assert not any(MLC.degraded(line) for line in log("good").splitlines())


def test_the_embedded_toolchain_speaks_plainly() -> None:
    assert TVM.stage("mlc-jitd stage: kernels 3 of 9") == Stage("kernels", "3 of 9")
    assert TVM.stage("mlc-jitd stage: done") == Stage("done", "")
    assert TVM.stage("kernels") is None
    tail = "Traceback (most recent call last):\nValueError: inner\nmlc-jitd error: no such field\n"
    assert TVM.root_cause(tail) == "no such field"
    assert TVM.root_cause("ValueError: inner\n") == "ValueError: inner"
    assert (TVM.degraded(log("weak_mcpu")) or "").startswith("mcpu: ")
    assert TVM.degraded("anything") is None
