"""Perturb one input at a time: the key changes, or the input is on the declared exclusion list."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jitd.identity import PART_NAMES
from mlc_jitd.identity.canonical import canonical, digest, key_of, part
from mlc_jitd.identity.config import EXCLUDED, parse_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier

REAL = ("llama3_2_1b-q4f16_1-MLC", "qwen2_0_5b-q0f16-MLC", "qwen3_0.6b-q4f16_1-MLC", "smollm2_135m-q0f32-MLC")


def perturbed(value: Any) -> Any:
    """Another value of the same JSON type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, "x"]
    if isinstance(value, dict):
        return {**value, "x": 1}
    return 1


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, item in value.items():
        yield (*path, name)
        if isinstance(item, dict):
            yield from leaves(item, (*path, name))


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> bytes:
    copy = json.loads(json.dumps(config))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(copy).encode()


def model_hash(raw: bytes) -> str:
    return digest(parse_config(raw).key_value())


@pytest.mark.parametrize("name", [*REAL, "tiny-llama-q4f32_1"])
def test_every_field_of_a_real_config_is_in_the_key_or_declared(models: Path, name: str) -> None:
    raw = (models / name / "mlc-chat-config.json").read_bytes()
    config = json.loads(raw)
    before = model_hash(raw)
    tried = 0
    for path in leaves(config):
        value = config
        for step in path:
            value = value[step]
        after = model_hash(changed(config, path, perturbed(value)))
        owner = path[1] if path[0] == "model_config" and len(path) > 1 else path[0]
        shadowed = path[0] == "model_config" and len(path) > 1 and owner in config
        if owner in EXCLUDED or shadowed:
            assert after == before, path
        else:
            assert after != before, path
        tried += 1
    assert tried > 20


def test_a_field_of_model_config_counts_only_where_the_top_level_has_none(ask: Callable[..., JitRequest]) -> None:
    base = json.loads(ask().config)
    shadowed = changed(base, ("model_config", "context_window_size"), 7)
    alone = changed(base, ("model_config", "hidden_size"), 7)
    assert model_hash(shadowed) == model_hash(ask().config)
    assert model_hash(alone) != model_hash(ask().config)


@pytest.mark.parametrize("field", sorted(EXCLUDED))
@pytest.mark.parametrize("level", ["top", "model_config"])
def test_excluded_fields_do_not_count(ask: Callable[..., JitRequest], field: str, level: str) -> None:
    base = json.loads(ask().config)
    path = (field,) if level == "top" else ("model_config", field)
    values = [0, "another", None, {"a": [1]}]
    hashes = {model_hash(changed(base, path, value)) for value in values}
    assert hashes == {model_hash(ask().config)}


def test_each_exclusion_has_its_reason() -> None:
    assert all(len(reason) > 10 for reason in EXCLUDED.values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"rope_theta": 10000}, {"rope_theta": 10000.0}),
        ({"tie": True}, {"tie": 1}),
        ({"x": None}, {}),
        ({"x": 0.0}, {"x": -0.0}),
        ({"x": [1, 2]}, {"x": [2, 1]}),
        ({"active_vocab_size": 100}, {"active_vocab_size": 101}),
        ({"active_vocab_size": 100}, {}),
        ({"active_vocab_size": True}, {}),
        ({"quantization": "q0f16"}, {"quantization": "q0f32"}),
        ({"model_type": "llama"}, {"model_type": "qwen2"}),
        ({"an_unknown_field": 1}, {"an_unknown_field": 2}),
    ],
)
def test_configs_that_may_compile_differently_differ(
    ask: Callable[..., JitRequest], one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert model_hash(ask(fields=one).config) != model_hash(ask(fields=other).config)


@pytest.mark.parametrize("absent", [None, 0, -1, 0.0])
def test_no_active_vocab_size_has_several_spellings(ask: Callable[..., JitRequest], absent: object) -> None:
    assert model_hash(ask(fields={"active_vocab_size": absent}).config) == model_hash(ask().config)


def test_quantization_inside_model_config_is_not_the_one_that_counts(ask: Callable[..., JitRequest]) -> None:
    base = json.loads(ask().config)
    base["model_config"]["quantization"] = "q0f16"
    assert parse_config(json.dumps(base).encode()).quantization == "q4f32_1"


def test_order_and_spacing_of_the_file_do_not_count(ask: Callable[..., JitRequest]) -> None:
    base = json.loads(ask().config)
    turned = json.dumps(dict(reversed(base.items())), indent=4).encode()
    assert model_hash(turned) == model_hash(ask().config)


def test_canonical_json_is_stable() -> None:
    assert canonical({"b": 1, "a": [1.0, "é", None]}) == b'{"a":[1.0,"\\u00e9",null],"b":1}'
    assert len(key_of(tuple(part(name, name) for name in PART_NAMES))) == 64


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("model", {"fields": {"hidden_act": "silu"}}),
    ("overrides", {"overrides": {"max_batch_size": 3}}),
    ("overrides", {"overrides": {"disaggregation": False}}),
    ("overrides", {"overrides": {"prefill_chunk_size": -1}}),
    ("opt", {"opt": "O3"}),
    ("target", {"device": "webgpu"}),
    ("target", {"env": {"MLC_DSO_SUFFIX": "dylib"}}),
    ("environment", {"env": {"MLC_MULTI_ARCH": "80,86"}}),
    ("environment", {"env": {"LD_RUN_PATH": "/opt/lib"}}),
    ("environment", {"env": {"FLASHINFER_CUDA_ARCH_LIST": "8.0"}}),
]


@pytest.mark.parametrize(
    ("name", "change"), CHANGES, ids=[f"{n}-{next(iter(c))}-{i}" for i, (n, c) in enumerate(CHANGES)]
)
def test_each_input_changes_its_own_part(
    identifier: Identifier, ask: Callable[..., JitRequest], name: str, change: dict[str, Any]
) -> None:
    before, after = identifier.identify(ask()), identifier.identify(ask(**change))
    assert before.key != after.key
    assert name in {b.name for b, a in zip(before.parts, after.parts, strict=True) if a.sha256 != b.sha256}


SAME: list[dict[str, Any]] = [
    {"overrides": {"context_window_size": -1, "sliding_window_size": -1, "attention_sink_size": -1}},
    {"overrides": {"max_batch_size": None, "unheard_of": None}},
    {"opt": "O2"},
    {"device": "cpu:0"},
    {"device": "auto"},
    {"system_lib_prefix": "given_but_dropped_on_cpu"},
    {"model_path": "/another/place"},
    {"policy": "REDO"},
    {"prewarm": True},
    {"progress": True},
    {"env": {"CUDA_VISIBLE_DEVICES": "3"}},
    {"env": {"FLASHINFER_WORKSPACE_BASE": "/elsewhere"}},
    {"env": {"HOME": "/nowhere", "USER": "somebody", "PWD": "/"}},
    {"env": {"MLC_DOUBLE_LOG": "/dev/null"}},
    {"fields": {"temperature": 0.1, "top_p": 0.2}},
]


@pytest.mark.parametrize("change", SAME, ids=[f"{next(iter(c))}-{i}" for i, c in enumerate(SAME)])
def test_what_does_not_reach_the_library_is_not_in_the_key(
    identifier: Identifier, ask: Callable[..., JitRequest], change: dict[str, Any]
) -> None:
    assert identifier.identify(ask()).key == identifier.identify(ask(**change)).key


def test_the_key_does_not_depend_on_home_or_folder(
    identifier: Identifier,
    ask: Callable[..., JitRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = identifier.identify(ask()).key
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert type(identifier)(tmp_path / "other memory").identify(ask()).key == before


def test_equal_gpus_under_other_ordinals_are_one_key_and_other_gpus_are_not(
    identifier: Identifier, ask: Callable[..., JitRequest]
) -> None:
    keys = {identifier.identify(ask(device=device)).key for device in ("cuda", "cuda:0", "cuda:3")}
    assert len(keys) == 1
    fresh = identifier.identify(ask(device="cuda:1", env={"MLC_DOUBLE_ARCH": "sm_90", "CUDA_VISIBLE_DEVICES": "1"}))
    assert fresh.key not in keys


def test_the_parts_are_those_of_the_contract(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    identity = identifier.identify(ask())
    assert tuple(p.name for p in identity.parts) == PART_NAMES
    assert re.fullmatch(r"[0-9a-f]{64}", identity.key)
    for p in identity.parts:
        assert p.sha256 == digest(json.loads(json.dumps(p.value)))
    text = json.dumps([p.value for p in identity.parts])
    assert os.path.expanduser("~") + "/" not in text  # noqa: PTH111
    assert str(os.getpid()) not in text or len(str(os.getpid())) < 4


def test_the_compiler_gets_the_unstripped_config(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    request = ask(fields={"bos_token_id": 1})
    assert identifier.identify(request).job.config == request.config
