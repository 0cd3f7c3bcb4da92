"""mlc-chat-config.json and overrides, read by MLC's rules, into one checked value.

The rules, as MLC-LLM has them: the fields of `model_config` are updated by those of the top level; quantization and
model type come from the top level alone; defaults are filled in; then the overrides replace fields, and the defaults
are worked out once more. What is stricter here: anything that the embedded toolchain can't honour is an error that
says what to use instead, never a library that does something else.

Not here: files, arguments, TVM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .errors import USE_MLC_LLM, InputError

QUANTIZATIONS = {"q0f32": "float32", "q0f16": "float16"}
"""Quantization name -> the dtype of weights and activations."""

NOT_GIVEN = -1
"""MLC's way to leave a size unset."""

OVERRIDES = {
    "context_window_size": int,
    "sliding_window_size": int,
    "prefill_chunk_size": int,
    "attention_sink_size": int,
    "max_batch_size": int,
    "tensor_parallel_shards": int,
    "pipeline_parallel_stages": int,
    "disaggregation": bool,
}
_UNSET_BY_MINUS_ONE = ("context_window_size", "sliding_window_size", "attention_sink_size")
_WINDOW_NAMES = ("max_position_embeddings", "max_sequence_length")
_LLAMA3_ROPE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_LARGEST_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Family:
    """What sets one model type apart from Llama."""

    required: tuple[str, ...] = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "rms_norm_eps",
        "vocab_size",
    )
    qkv_name: str = "qkv_proj"
    symbolic_vocab: bool = True
    """The library takes a vocabulary of any size, as MLC's does for this type."""
    ties: bool = True
    slides: bool = False
    largest_chunk: int = _LARGEST_CHUNK
    defaults: dict[str, Any] = field(default_factory=dict)


_QWEN_REQUIRED = (*Family().required, "hidden_act", "num_key_value_heads", "rope_theta")

FAMILIES = {
    "llama": Family(),
    "mistral": Family(ties=False, slides=True),
    "qwen2": Family(required=_QWEN_REQUIRED, qkv_name="c_attn", symbolic_vocab=False),
    "qwen3": Family(
        required=(*_QWEN_REQUIRED, "attention_bias", "head_dim"),
        qkv_name="c_attn",
        symbolic_vocab=False,
        largest_chunk=2048,
    ),
}


@dataclass(frozen=True, slots=True)
class Config:
    """One model to compile, with every default worked out."""

    model_type: str
    quantization: str
    dtype: str
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int
    tie_word_embeddings: bool
    rope_theta: float
    rope_scaling: dict[str, Any]
    """Empty, or llama3's five fields."""
    qkv_bias: bool
    output_bias: bool
    head_norm: bool
    context_window_size: int
    """In tokens; -1 with a sliding window."""
    sliding_window_size: int
    """In tokens; -1 without one."""
    attention_sink_size: int
    prefill_chunk_size: int
    max_batch_size: int
    active_vocab_size: int | None
    notes: tuple[str, ...] = ()
    """What was asked for and has no effect: one sentence each."""

    @property
    def family(self) -> Family:
        """What sets this model type apart."""
        return FAMILIES[self.model_type]


def parse(text: bytes, overrides: str = "") -> Config:
    """Read a configuration.

    Args:
        text: the bytes of mlc-chat-config.json.
        overrides: `name=value` pairs joined by semicolons, as `mlc_llm compile --overrides` takes them.

    Raises:
        InputError: not JSON, a field missing or of a wrong kind, or something that needs mlc_llm.
    """
    source = _load(text)
    quantization, model_type = source.get("quantization"), source.get("model_type")
    if model_type not in FAMILIES:
        raise InputError(
            f"model_type {model_type!r} is not one that the embedded toolchain compiles "
            f"({', '.join(FAMILIES)}); {USE_MLC_LLM}"
        )
    if quantization not in QUANTIZATIONS:
        raise InputError(
            f"quantization {quantization!r} is not one that the embedded toolchain compiles "
            f"({', '.join(QUANTIZATIONS)}); {USE_MLC_LLM}"
        )
    active = source.pop("active_vocab_size", None)
    inner = source.pop("model_config", {})
    if not isinstance(inner, dict):
        raise InputError("model_config in mlc-chat-config.json must be an object")
    family = FAMILIES[model_type]
    fields = _settle(family, {**inner, **source})
    wanted, notes = _overrides(overrides, family)
    if wanted:
        fields = _settle(family, {**fields, **wanted})
    _refuse_what_needs_mlc_llm(fields)
    return _config(model_type, quantization, fields, _active(active), notes)


def _load(text: bytes) -> dict[str, Any]:
    try:
        source = json.loads(text)
    except ValueError as error:
        raise InputError(f"mlc-chat-config.json is not valid JSON: {error}") from None
    if not isinstance(source, dict):
        raise InputError("mlc-chat-config.json must hold an object")
    return source


def _settle(family: Family, given: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults; what a second call finds settled, it leaves alone."""
    missing = [name for name in family.required if given.get(name) is None]
    if missing:
        raise InputError(f"mlc-chat-config.json lacks {', '.join(missing)}")
    fields = dict(given)
    for name in ("position_embedding_base", "num_key_value_heads", "head_dim", "context_window_size"):
        fields[name] = _integer(fields, name, 0) if name != "position_embedding_base" else fields.get(name) or 0
    if not fields["position_embedding_base"]:
        fields["position_embedding_base"] = fields.get("rope_theta") or 10000
    if not fields["num_key_value_heads"]:
        fields["num_key_value_heads"] = _integer(fields, "num_attention_heads")
    if not fields["head_dim"]:
        fields["head_dim"] = _integer(fields, "hidden_size") // max(1, _integer(fields, "num_attention_heads"))
    if family.slides:
        _settle_sliding_window(fields)
    else:
        fields["sliding_window_size"] = fields["attention_sink_size"] = NOT_GIVEN
    if not fields["context_window_size"]:
        fields["context_window_size"] = _window(fields)
    bounds = [fields[name] for name in ("context_window_size", "sliding_window_size") if fields[name] != NOT_GIVEN]
    largest = min(*bounds, family.largest_chunk) if bounds else family.largest_chunk
    chunk = _integer(fields, "prefill_chunk_size", 0)
    too_large = not family.slides and chunk > fields["context_window_size"]
    fields["prefill_chunk_size"] = largest if chunk == 0 or too_large else chunk
    return fields


def _settle_sliding_window(fields: dict[str, Any]) -> None:
    size = fields.get("sliding_window_size", 0)
    if size == 0:
        size = fields.get("sliding_window", NOT_GIVEN)
    fields["sliding_window_size"] = NOT_GIVEN if size is None else size
    _integer(fields, "sliding_window_size")
    if _integer(fields, "attention_sink_size", 4) < 0:
        raise InputError(f"attention_sink_size must be 0 or more for mistral, not {fields['attention_sink_size']}")
    fields["attention_sink_size"] = _integer(fields, "attention_sink_size", 4)
    if not fields["context_window_size"] and fields["sliding_window_size"] != NOT_GIVEN:
        fields["context_window_size"] = NOT_GIVEN


def _window(fields: dict[str, Any]) -> int:
    for name in _WINDOW_NAMES:
        if name in fields:
            return _integer(fields, name)
    raise InputError(f"mlc-chat-config.json lacks context_window_size (or {' or '.join(_WINDOW_NAMES)})")


def _overrides(text: str, family: Family) -> tuple[dict[str, Any], tuple[str, ...]]:
    wanted: dict[str, Any] = {}
    notes = []
    for pair in filter(None, text.split(";")):
        name, _, value = pair.partition("=")
        if name not in OVERRIDES:
            raise InputError(f"override {name!r} is unknown; known are {', '.join(OVERRIDES)}")
        if OVERRIDES[name] is bool:
            wanted[name] = value.lower() in ("true", "1", "yes")
            continue
        try:
            number = int(value)
        except ValueError:
            raise InputError(f"override {name} must be a whole number, not {value!r}") from None
        if number == NOT_GIVEN and name in _UNSET_BY_MINUS_ONE:
            continue
        if name in ("sliding_window_size", "attention_sink_size") and not family.slides:
            notes.append(f"override {name} has no effect: this model type has no sliding window")
            continue
        wanted[name] = number
    return wanted, tuple(notes)


def _refuse_what_needs_mlc_llm(fields: dict[str, Any]) -> None:
    for name, what in (("tensor_parallel_shards", "one shard"), ("pipeline_parallel_stages", "one stage")):
        value = _integer(fields, name, 1)
        if value != 1:
            raise InputError(f"{name} is {value}, the embedded toolchain compiles for {what} only; {USE_MLC_LLM}")
    if fields.get("disaggregation"):
        raise InputError(f"disaggregation is on, the embedded toolchain compiles without it only; {USE_MLC_LLM}")
    act = fields.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise InputError(f"hidden_act {act!r} is not one that the embedded toolchain compiles (silu); {USE_MLC_LLM}")


def _rope_scaling(fields: dict[str, Any]) -> dict[str, Any]:
    scaling = fields.get("rope_scaling")
    if not isinstance(scaling, dict) or "rope_type" not in scaling:
        return {}
    if scaling["rope_type"] != "llama3":
        raise InputError(
            f"rope_scaling type {scaling['rope_type']!r} is not one that the embedded toolchain compiles (llama3); "
            f"{USE_MLC_LLM}"
        )
    lacking = [name for name in _LLAMA3_ROPE if name not in scaling]
    if lacking:
        raise InputError(f"rope_scaling in mlc-chat-config.json lacks {', '.join(lacking)}")
    return {"rope_type": "llama3", **{name: _number(scaling, name) for name in _LLAMA3_ROPE}}


def _config(
    model_type: str, quantization: str, fields: dict[str, Any], active: int | None, notes: tuple[str, ...]
) -> Config:
    family = FAMILIES[model_type]
    bias = bool(fields.get("attention_bias")) if model_type == "qwen3" else model_type == "qwen2"
    config = Config(
        model_type=model_type,
        quantization=quantization,
        dtype=QUANTIZATIONS[quantization],
        hidden_size=_positive(fields, "hidden_size"),
        intermediate_size=_positive(fields, "intermediate_size"),
        num_attention_heads=_positive(fields, "num_attention_heads"),
        num_key_value_heads=_positive(fields, "num_key_value_heads"),
        num_hidden_layers=_positive(fields, "num_hidden_layers"),
        head_dim=_positive(fields, "head_dim"),
        rms_norm_eps=_number(fields, "rms_norm_eps"),
        vocab_size=_positive(fields, "vocab_size"),
        tie_word_embeddings=family.ties and bool(fields.get("tie_word_embeddings", False)),
        rope_theta=_number(fields, "position_embedding_base" if family.symbolic_vocab else "rope_theta"),
        rope_scaling=_rope_scaling(fields) if model_type == "llama" else {},
        qkv_bias=bias,
        output_bias=bias and model_type == "qwen3",
        head_norm=model_type == "qwen3",
        context_window_size=_integer(fields, "context_window_size"),
        sliding_window_size=fields["sliding_window_size"],
        attention_sink_size=fields["attention_sink_size"],
        prefill_chunk_size=_positive(fields, "prefill_chunk_size"),
        max_batch_size=_positive({"max_batch_size": 1, **fields}, "max_batch_size"),
        active_vocab_size=active,
        notes=notes,
    )
    if config.num_attention_heads % config.num_key_value_heads:
        raise InputError(
            f"num_attention_heads ({config.num_attention_heads}) must be a multiple of num_key_value_heads "
            f"({config.num_key_value_heads})"
        )
    if config.head_dim % 2:
        raise InputError(f"head_dim must be even for the rotary embedding, not {config.head_dim}")
    if config.context_window_size < 1 and config.sliding_window_size < 1:
        raise InputError(f"context_window_size must be 1 or more, not {config.context_window_size}")
    return config


def _active(value: Any) -> int | None:
    """MLC takes absent, null, zero and below to mean that every token exists."""
    if value is None:
        return None
    return max(0, _integer({"active_vocab_size": value}, "active_vocab_size")) or None


def _integer(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, not {json.dumps(value)}")
    return value


def _positive(fields: dict[str, Any], name: str) -> int:
    value = _integer(fields, name)
    if value < 1:
        raise InputError(f"{name} must be 1 or more, not {value}")
    return value


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, not {json.dumps(value)}")
    return float(value)
