from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

tvm = pytest.importorskip("tvm")
np = pytest.importorskip("numpy")

from tvm import relax  # noqa: E402
from tvm_reference import Reference  # noqa: E402

pytestmark = [pytest.mark.tvm, pytest.mark.timeout(120)]

INSIDE = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains/tvm/inside"
TARGET = '{"kind": "llvm", "mcpu": "x86-64-v3"}' if os.uname().machine == "x86_64" else '{"kind": "llvm"}'
STAGES = ["load", "model", "graph", "lower", "schedule", "bytecode", "codegen", "link", "done"]
STEPS = ["prefill", "decode", "batch_prefill", "batch_decode", "batch_verify"]
FUNCTIONS = [
    *STEPS,
    *(f"{step}_to_last_hidden_states" for step in STEPS),
    "alloc_embedding_tensor",
    "batch_select_last_hidden_states",
    "create_tir_paged_kv_cache",
    "embed",
    "gather_hidden_states",
    "get_logits",
    "scatter_hidden_states",
    "softmax_with_temperature",
]
KERNELS = [
    "apply_bitmask_inplace",
    "apply_logit_bias_inplace",
    "apply_penalty_inplace",
    "gather_probs",
    "scatter_probs",
]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 131,
    "context_window_size": 256,
    "prefill_chunk_size": 64,
    "max_batch_size": 3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
QWEN = {"hidden_act": "silu", "rope_theta": 1000000}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "quantization": "q0f32", "rope_scaling": LLAMA3_ROPE, "active_vocab_size": 120},
    "qwen3": {
        "model_type": "qwen3",
        "quantization": "q0f32",
        **QWEN,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "head_dim": 24,
    },
    "qwen2": {"model_type": "qwen2", "quantization": "q0f16", **QWEN, "vocab_size": 128},
    # Sizes that no vector width divides.
    "mistral": {
        "model_type": "mistral",
        "quantization": "q0f32",
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 12,
        "sliding_window_size": 128,
        "context_window_size": -1,
    },
}
TOLERANCE = {"float32": 2e-5, "float16": 2e-2}


def chat_config(**changes: Any) -> dict[str, Any]:
    """A tiny model in MLC's layout: most fields inside, some outside."""
    fields = SIZES | changes
    outside = {name: fields.pop(name) for name in ("model_type", "quantization", "active_vocab_size") if name in fields}
    return outside | {"version": "0.1.0", "model_config": fields, "temperature": 0.7}


def run_compiler(folder: Path, config: Any, *more: str, target: str = TARGET) -> subprocess.CompletedProcess[str]:
    source = folder / "mlc-chat-config.json"
    source.write_text(config if isinstance(config, str) else json.dumps(config))
    command = [sys.executable, "-P", str(INSIDE / "compile.py"), "--config", str(source), "--target", target]
    return subprocess.run(
        [*command, "--output", str(folder / "lib.so"), *more], capture_output=True, text=True, check=False, cwd="/"
    )


class Library:
    """A compiled library with random weights, and the reference that has the same ones."""

    def __init__(self, folder: Path, name: str) -> None:
        self.config = chat_config(**MODELS[name])
        self.result = run_compiler(folder, self.config)
        assert self.result.returncode == 0, self.result.stderr
        self.files = sorted(path.name for path in folder.iterdir())
        self.load(folder / "lib.so")

    def load(self, path: Path) -> None:
        """Load a library for `self.config`, and make weights."""
        self.vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        self.metadata = json.loads(self.vm["_metadata"]())
        self.dtype = self.metadata["params"][0]["dtype"]
        rng = np.random.default_rng(7)
        weights = {}
        for param in self.metadata["params"]:
            shape = [SIZES["vocab_size"] if extent == "vocab_size" else extent for extent in param["shape"]]
            value = rng.standard_normal(shape) * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)
            weights[param["name"]] = (1 + value if "norm" in param["name"] else value).astype(param["dtype"])
        self.weights = [tensor(weight) for weight in weights.values()]
        self.reference = Reference(self.config["model_config"], weights)
        self.cache = self.new_cache()

    def new_cache(self, *, sliding: bool = False) -> Any:
        sizes = (3, 192, 64, 16, int(sliding))
        return self.vm["create_tir_paged_kv_cache"](*(shape_of(size) for size in sizes))

    def embed(self, tokens: list[int], *shape: int) -> Any:
        embeds = self.vm["embed"](tensor(np.array(tokens, "int32")), self.weights)
        return tvm.get_global_func("vm.builtin.reshape")(embeds, shape_of(*shape, embeds.shape[1]))

    def sequences(self, *numbers: int) -> None:
        """Empty the cache and begin these sequences."""
        tvm.get_global_func("vm.builtin.kv_state_clear")(self.cache)
        for number in numbers:
            tvm.get_global_func("vm.builtin.kv_state_add_sequence")(self.cache, number)

    def step(self, function: str, lengths: dict[int, int], embeds: Any, *more: Any) -> np.ndarray:
        """Run one forward step of the given sequences."""
        tvm.get_global_func("vm.builtin.kv_state_begin_forward")(
            self.cache, shape_of(*lengths), shape_of(*lengths.values())
        )
        out, _ = self.vm[function](embeds, *more, self.cache, self.weights)
        tvm.get_global_func("vm.builtin.kv_state_end_forward")(self.cache)
        assert str(out.dtype) == (self.dtype if "hidden" in function else "float32")
        return out.numpy()

    def close(self, got: np.ndarray, expected: np.ndarray) -> None:
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=TOLERANCE[self.dtype])


def tensor(values: np.ndarray) -> Any:
    return tvm.runtime.tensor(np.ascontiguousarray(values))


def shape_of(*extents: int) -> Any:
    return tvm.runtime.ShapeTuple(extents)


@pytest.fixture(scope="module", params=list(MODELS))
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp(request.param), request.param)


PROMPT = [3, 77, 21, 9, 100, 64, 2]
OTHER = [55, 8, 8, 119, 40]


def test_prefill_and_decode_give_the_reference_logits(library: Library) -> None:
    library.sequences(0)
    expected = library.reference.logits([*PROMPT, *OTHER])
    got = library.step("prefill", {0: 7}, library.embed(PROMPT, 1, 7))
    assert got.shape == (1, 1, library.config["model_config"]["vocab_size"])
    library.close(got[0, 0], expected[6])
    for index, token in enumerate(OTHER):
        got = library.step("decode", {0: 1}, library.embed([token], 1, 1))
        library.close(got[0, 0], expected[7 + index])


def test_a_prompt_in_two_chunks_gives_the_same(library: Library) -> None:
    library.sequences(0)
    tokens = (PROMPT + OTHER) * 5
    library.step("prefill", {0: 33}, library.embed(tokens[:33], 1, 33))
    got = library.step("prefill", {0: 27}, library.embed(tokens[33:], 1, 27))
    library.close(got[0, 0], library.reference.logits(tokens)[-1])


def test_batches_give_the_reference_logits(library: Library) -> None:
    library.sequences(0, 1)
    embeds = library.embed(PROMPT + OTHER, 1, 12)
    got = library.step("batch_prefill", {0: 7, 1: 5}, embeds, tensor(np.array([6, 11], "int32")))
    library.close(got[0, 0], library.reference.logits(PROMPT)[-1])
    library.close(got[0, 1], library.reference.logits(OTHER)[-1])
    for index in range(3):
        got = library.step("batch_decode", {0: 1, 1: 1}, library.embed([OTHER[index], PROMPT[index]], 2, 1))
        library.close(got[0, 0], library.reference.logits(PROMPT + OTHER[: index + 1])[-1])
        library.close(got[1, 0], library.reference.logits(OTHER + PROMPT[: index + 1])[-1])
    got = library.step("batch_verify", {0: 2, 1: 3}, library.embed([5, 6, 7, 8, 9], 1, 5))
    library.close(got[0, :2], library.reference.logits([*PROMPT, *OTHER[:3], 5, 6])[-2:])
    library.close(got[0, 2:], library.reference.logits([*OTHER, *PROMPT[:3], 7, 8, 9])[-3:])


def test_a_cache_with_a_sliding_window_rotates_inside_attention(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "cache", library.new_cache(sliding=True))
    library.sequences(0, 1)
    for number in (0, 1):
        tvm.get_global_func("vm.builtin.attention_kv_cache_enable_sliding_window_for_seq")(
            library.cache, number, 128, 0
        )
    tokens = (PROMPT + OTHER) * 3
    got = library.step(
        "batch_prefill", {0: 30, 1: 6}, library.embed(tokens, 1, 36), tensor(np.array([29, 35], "int32"))
    )
    library.close(got[0, 0], library.reference.logits(tokens[:30])[-1])
    library.close(got[0, 1], library.reference.logits(tokens[30:])[-1])
    got = library.step("batch_decode", {0: 1, 1: 1}, library.embed([5, 6], 2, 1))
    library.close(got[0, 0], library.reference.logits([*tokens[:30], 5])[-1])


@pytest.mark.parametrize("step", STEPS)
def test_hidden_states_and_get_logits(library: Library, step: str) -> None:
    library.sequences(0)
    tokens = PROMPT[:1] if "decode" in step else PROMPT
    got = library.step(f"{step}_to_last_hidden_states", {0: len(tokens)}, library.embed(tokens, 1, len(tokens)))
    assert got.shape == (1, len(tokens), library.config["model_config"]["hidden_size"])
    library.close(got[0], library.reference.hidden_states(tokens))
    chosen = library.vm["batch_select_last_hidden_states"](tensor(got[0]), tensor(np.array([len(tokens) - 1], "int32")))
    np.testing.assert_array_equal(chosen.numpy(), got[0, -1:])
    logits = library.vm["get_logits"](chosen, library.weights).numpy()
    library.close(logits[0], library.reference.logits(tokens)[-1])


def test_all_functions_are_there(library: Library) -> None:
    for name in FUNCTIONS:
        assert library.vm[name] is not None
    for name in KERNELS:
        assert library.vm.module.get_function(name, query_imports=True) is not None
    assert sorted(library.metadata["memory_usage"]) == sorted(FUNCTIONS)


def test_metadata(library: Library) -> None:
    facts, fields = library.metadata, library.config["model_config"]
    model_type = library.config["model_type"]
    usage = facts["memory_usage"]
    assert 0 < usage["decode"] < usage["batch_decode"] < usage["prefill"]
    assert {name: facts[name] for name in facts if name not in ("params", "memory_usage")} == {
        "model_type": model_type,
        "quantization": library.config["quantization"],
        "context_window_size": fields["context_window_size"],
        "sliding_window_size": fields.get("sliding_window_size", -1),
        "attention_sink_size": 4 if model_type == "mistral" else -1,
        "prefill_chunk_size": 64,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "kv_state_kind": "kv_cache",
        "max_batch_size": 3,
        "active_vocab_size": library.config.get("active_vocab_size"),
        "model_task": "chat",
        "kv_cache": {
            "num_hidden_layers": 2,
            "num_attention_heads": fields["num_attention_heads"],
            "num_key_value_heads": fields["num_key_value_heads"],
            "head_dim": fields["head_dim"],
        },
    }
    vocab = "vocab_size" if model_type in ("llama", "mistral") else fields["vocab_size"]
    assert facts["params"][0] == {
        "name": "model.embed_tokens.weight",
        "shape": [vocab, fields["hidden_size"]],
        "dtype": library.dtype,
        "preprocs": [],
        "pipeline_stages": [0],
    }
    names = [param["name"].removeprefix("model.layers.0.") for param in facts["params"][1:]]
    qkv = "self_attn.qkv_proj" if model_type in ("llama", "mistral") else "self_attn.c_attn"
    first_layer = [f"{qkv}.weight", f"{qkv}.bias"] if model_type == "qwen2" else [f"{qkv}.weight"]
    first_layer += ["self_attn.o_proj.weight"]
    first_layer += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] if model_type == "qwen3" else []
    first_layer += ["mlp.gate_up_proj.weight", "mlp.down_proj.weight"]
    first_layer += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    assert names[: len(first_layer)] == first_layer
    last = "model.norm.weight" if fields.get("tie_word_embeddings") else "lm_head.weight"
    assert facts["params"][-1]["name"] == last


def test_output_protocol(library: Library) -> None:
    lines = library.result.stderr.splitlines()
    assert [line.split()[2] for line in lines if line.startswith("mlc-jitd stage: ")] == STAGES
    assert "note:" not in library.result.stderr, "a kernel of TVM's KV cache was not replaced"
    assert library.result.stdout == ""
    assert library.files == ["lib.so", "mlc-chat-config.json"]


def test_softmax_with_temperature(library: Library) -> None:
    logits = np.random.default_rng(1).standard_normal((3, 1, 131)).astype("float32") * 5
    logits[2, 0, 4] = logits[2, 0, 9] = 50
    got = library.vm["softmax_with_temperature"](tensor(logits), tensor(np.array([1.0, 0.5, 0.0], "float32"))).numpy()
    active = library.metadata["active_vocab_size"] or 131
    for row, temperature in ((0, 1.0), (1, 0.5)):
        expected = np.exp((logits[row, 0, :active] - logits[row, 0, :active].max()) / temperature)
        np.testing.assert_allclose(got[row, 0, :active], expected / expected.sum(), rtol=1e-4, atol=1e-7)
    assert got[2, 0, 4] == got[2, 0, 9] == 0.5
    assert got[2].sum() == 1
    assert not got[:, :, active:].any()


def test_logit_processing(library: Library) -> None:
    def run(name: str, *arguments: np.ndarray) -> np.ndarray:
        tensors = [tensor(logits), *map(tensor, arguments)]
        library.vm.module.get_function(name, query_imports=True)(*tensors)
        return tensors[0].numpy()

    logits = np.random.default_rng(2).standard_normal((3, 70)).astype("float32")
    rows, tokens = np.array([0, 0, 2], "int32"), np.array([5, 6, 69], "int32")
    bias = np.array([1, -2, 3], "float32")
    expected = logits.copy()
    expected[rows, tokens] += bias
    np.testing.assert_array_equal(run("apply_logit_bias_inplace", rows, tokens, bias), expected)

    sequences, owners = np.array([0, 2], "int32"), np.array([0, 0, 1], "int32")
    counts, penalties = np.array([1, 2, 3], "int32"), np.array([[0.5, 0.25, 1.5], [0.1, 0.2, 2.0]], "float32")
    expected = logits.copy()
    for owner, token, count in zip(owners, tokens, counts, strict=True):
        presence, frequency, repetition = penalties[owner]
        value = expected[sequences[owner], token] - presence - count * frequency
        expected[sequences[owner], token] = value * repetition if value < 0 else value / repetition
    np.testing.assert_allclose(
        run("apply_penalty_inplace", sequences, owners, tokens, counts, penalties), expected, rtol=1e-6
    )

    mask = np.random.default_rng(3).integers(-(2**31), 2**31, (3, 3), dtype="int64").astype("int32")
    allowed = (mask.view("uint32")[:, np.arange(70) // 32] >> (np.arange(70) % 32)) & 1
    expected = np.where(allowed == 1, logits, np.finfo("float32").min)
    expected[1] = logits[1]
    np.testing.assert_array_equal(run("apply_bitmask_inplace", sequences, mask), expected)


def test_speculative_helpers(library: Library) -> None:
    rng = np.random.default_rng(4)
    many, few = rng.standard_normal((5, 8)), rng.standard_normal((2, 8))
    indices = np.array([4, 1], "int32")
    for suffix, dtype in (("probs", "float32"), ("hidden_states", library.dtype)):
        for prefix in ("gather", "scatter"):
            name = f"{prefix}_{suffix}"
            function = (
                library.vm.module.get_function(name, query_imports=True) if suffix == "probs" else library.vm[name]
            )
            src, dst = (many, few) if prefix == "gather" else (few, many)
            arguments = [tensor(src.astype(dtype)), tensor(indices), tensor(dst.astype(dtype))]
            function(*arguments)
            expected = dst.astype(dtype).copy()
            if prefix == "gather":
                expected[:] = src.astype(dtype)[indices]
            else:
                expected[indices] = src.astype(dtype)
            np.testing.assert_array_equal(arguments[2].numpy(), expected)
    embeddings = library.vm["alloc_embedding_tensor"]()
    assert tuple(embeddings.shape) == (64, library.config["model_config"]["hidden_size"])


ERRORS = [
    ({"quantization": "q4f16_1"}, "", "quantization 'q4f16_1' .*q0f32, q0f16.*mlc.ai/wheels"),
    ({"model_type": "gpt2"}, "", "model_type 'gpt2' .*llama, mistral, qwen2, qwen3.*mlc_llm"),
    ({"tensor_parallel_shards": 2}, "", "tensor_parallel_shards is 2.*one shard.*mlc_llm"),
    ({}, "tensor_parallel_shards=4", "tensor_parallel_shards is 4"),
    ({}, "pipeline_parallel_stages=2", "pipeline_parallel_stages is 2.*one stage.*mlc_llm"),
    ({}, "disaggregation=true", "disaggregation is on.*mlc_llm"),
    ({}, "max_batch=8", "override 'max_batch' is unknown.*max_batch_size"),
    ({}, "max_batch_size=many", "max_batch_size must be a whole number, not 'many'"),
    ({}, "max_batch_size=0", "max_batch_size must be 1 or more, not 0"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "", "rope_scaling type 'yarn'.*llama3.*mlc_llm"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "", "rope_scaling .*lacks factor"),
    ({"hidden_size": None}, "", "lacks hidden_size"),
    ({"hidden_size": "64"}, "", 'hidden_size must be a whole number, not "64"'),
    ({"num_key_value_heads": 3}, "", "num_attention_heads .4. must be a multiple of num_key_value_heads .3."),
    ({"head_dim": 7}, "", "head_dim must be even"),
    ({"context_window_size": 0}, "", "lacks context_window_size .or max_position_embeddings"),
]


@pytest.mark.parametrize(("changes", "overrides", "sentence"), ERRORS)
def test_what_it_cannot_compile(tmp_path: Path, changes: dict[str, Any], overrides: str, sentence: str) -> None:
    config = chat_config(**({"model_type": "llama", "quantization": "q0f32"} | changes))
    expect_refusal(run_compiler(tmp_path, config, "--overrides", overrides), tmp_path, sentence)


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "not valid JSON"), ("[]", "must hold an object"), ("{}", "model_type None")]
)
def test_what_is_no_config(tmp_path: Path, text: str, sentence: str) -> None:
    expect_refusal(run_compiler(tmp_path, text), tmp_path, sentence)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--output", "/nowhere/lib.tar"], "--output must end in .so or .dylib, not 'lib.tar'"),
        (["--output", "/nowhere/lib.so"], "there is no folder /nowhere to write lib.so to"),
        (["--opt", "O7"], "--opt 'O7' is neither one of O0, O1, O2, O3"),
        (["--threads", "0"], "--threads must be 1 or more"),
        (["--config", "/nowhere/mlc-chat-config.json"], "can't read /nowhere/mlc-chat-config.json: No such file"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--target", '{"kind": "cuda"}'], "target kind 'cuda' is no CPU.*compiles for CPUs.*mlc.ai/wheels"),
        (["--target", "cuda"], "target is not valid JSON"),
        (["--target", '{"kind": "llvm", "mcpu": "pentium9"}'], "target mcpu 'pentium9' is unknown to LLVM"),
    ],
)
def test_wrong_arguments(tmp_path: Path, more: list[str], sentence: str) -> None:
    config = chat_config(model_type="llama", quantization="q0f32")
    expect_refusal(run_compiler(tmp_path, config, *more), tmp_path, sentence)


def expect_refusal(result: subprocess.CompletedProcess[str], folder: Path, sentence: str) -> None:
    last = result.stderr.splitlines()[-1]
    assert last.startswith("mlc-jitd error: ")
    assert re.search(sentence, last)
    assert "Traceback" not in result.stderr
    assert (result.returncode, result.stdout) == (2, "")
    assert not (folder / "lib.so").exists()


IN_PROCESS = """
import importlib.util, sys, tvm
spec = importlib.util.spec_from_file_location("compiler", sys.argv[1])
compiler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compiler)
arguments = sys.argv[2:]
print([compiler.main([*arguments, "--output", name]) for name in ("one.so", "two.so")], compiler.main(["--config"]))
"""


def test_main_serves_a_process_that_has_tvm_already(tmp_path: Path) -> None:
    source = tmp_path / "mlc-chat-config.json"
    source.write_text(json.dumps(chat_config(model_type="llama", quantization="q0f32")))
    arguments = ["--config", str(source), "--target", TARGET, "--overrides", "context_window_size=32;max_batch_size=2"]
    command = [sys.executable, "-P", "-c", IN_PROCESS, str(INSIDE / "compile.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stdout == "[0, 0] 2\n", result.stderr
    for name in ("one.so", "two.so"):
        vm = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / name)), tvm.cpu())
        metadata = json.loads(vm["_metadata"]())
        sizes = [metadata[size] for size in ("context_window_size", "prefill_chunk_size", "max_batch_size")]
        assert sizes == [32, 32, 2]


def test_no_linker_is_found_before_the_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    result = run_compiler(tmp_path, chat_config(model_type="llama", quantization="q0f32"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("mlc-jitd error: no C++ compiler to link with: install g++")
    assert "stage: model" not in result.stderr


def test_a_linker_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linker = tmp_path / "linker"
    linker.write_text("#!/bin/sh\necho 'ld: error: no space for jam' >&2\nexit 3\n")
    linker.chmod(0o755)
    monkeypatch.setenv("CXX", str(linker))
    result = run_compiler(tmp_path, chat_config(model_type="llama", quantization="q0f32"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "mlc-jitd error: the linker failed: ld: error: no space for jam"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linker", "mlc-chat-config.json"]


def resolve(device: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-P", str(INSIDE / "resolve.py")],
        input=json.dumps({"device": device}),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_every_name_of_the_local_cpu_resolves_alike() -> None:
    first = resolve("cpu")
    assert first["local"] is True
    assert first["target"]["mcpu"]
    assert first["target"]["host"] == {name: value for name, value in first["target"].items() if name != "host"}
    assert json.loads(first["text"]) == first["target"]
    for device in ("cpu:0", "cpu:1", "auto", first["text"]):
        answer = resolve(device)
        assert (answer["target"], answer["text"]) == (first["target"], first["text"])
    assert answer["local"] is False


def test_an_explicit_cpu_is_its_own_host() -> None:
    answer = resolve('{"mcpu": "x86-64-v3", "kind": "llvm", "mtriple": "x86_64-linux-gnu"}')
    assert answer["local"] is False
    assert answer["target"]["host"]["mcpu"] == "x86-64-v3"
    assert "mcpu" not in resolve("llvm")["target"]


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:0", "metal", "android", "vulkan:0", "", "cpu:", "auto:0", '{"kind": "cuda"}']
)
def test_what_is_no_cpu(device: str) -> None:
    answer = resolve(device)
    assert answer["kind"] == "device-invalid"
    assert "compiles for CPUs" in answer["error"]
    assert "mlc_llm" in answer["error"]
    assert "https://mlc.ai/wheels" in answer["error"]


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("{", "not valid JSON"),
        ('{"kind": "llvm", "colour": 1}', "Unknown config option 'colour'"),
        ('{"kind": "llvm", "mtriple": "z80-linux-gnu"}', "architecture that this LLVM does not know"),
        ('{"kind": "llvm", "mcpu": "x86-64-v3", "host": {"kind": "llvm", "mcpu": "x86-64-v4"}}', "its host differ"),
    ],
)
def test_targets_that_make_no_sense(device: str, sentence: str) -> None:
    answer = resolve(device)
    assert answer["kind"] == "device-invalid"
    assert sentence in answer["error"]
