"""``mlc-chat-config.json``: read, checked, and reduced to what reaches the compiler.

The compiler updates ``model_config`` by the file's top level, and reads three fields from the top level alone. All of
that is in the key, unknown fields too; left out is only what a declared list names, each with its reason. What does
not belong here: the toolchain, which is the one that knows model types.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlc_jit.errors import ConfigInvalidError

EXCLUDED: dict[str, str] = {
    "bos_token_id": "read by the engine when it serves; some model types require it but compile nothing from it",
    "conv_template": "read by the engine when it formats a conversation",
    "embedding_metadata": "read by the engine; the library carries the model type's own",
    "eos_token_id": "read by the engine when it serves",
    "frequency_penalty": "a default of sampling requests",
    "model_task": "read by the engine; the library carries the model type's own",
    "pad_token_id": "read by the engine; some model types require it but compile nothing from it",
    "presence_penalty": "a default of sampling requests",
    "repetition_penalty": "a default of sampling requests",
    "temperature": "a default of sampling requests",
    "tokenizer_files": "names of files beside the config",
    "tokenizer_info": "read by the tokenizer",
    "top_p": "a default of sampling requests",
    "version": "version of the config's format, checked by nobody",
}
"""Fields that never reach the compiler (mlc-llm 79d603f0: read for all 47 model types, run on llama)."""

_REMEDY = "Make a new one with `mlc_llm gen_config`, or fetch the model folder again."


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """What one config asks of the compiler.

    Attributes:
        raw: The file's bytes, for the compiler.
        model_type: As in the file.
        quantization: From the top level, the only place where the compiler looks.
        merged: ``model_config`` updated by the top level, minus ``EXCLUDED``.
        active_vocab_size: From the top level alone; null, 0 and less are ``None``, as in the compiler.
    """

    raw: bytes
    model_type: str
    quantization: str
    merged: dict[str, Any]
    active_vocab_size: Any

    def key_value(self) -> dict[str, Any]:
        """The ``model`` part of the key."""
        return {
            "model_type": self.model_type,
            "quantization": self.quantization,
            "active_vocab_size": self.active_vocab_size,
            "config": self.merged,
        }


def parse_config(raw: bytes) -> ChatConfig:
    """Read the bytes of a ``mlc-chat-config.json``.

    Raises:
        ConfigInvalidError: It is not UTF-8 JSON, not an object, or lacks what every compile needs.
    """
    try:
        top = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigInvalidError(f"mlc-chat-config.json is not UTF-8 text: {error}", remedy=_REMEDY) from error
    except ValueError as error:
        raise ConfigInvalidError(f"mlc-chat-config.json is not JSON: {error}", remedy=_REMEDY) from error
    except RecursionError as error:
        raise ConfigInvalidError("mlc-chat-config.json is nested too deeply", remedy=_REMEDY) from error
    if not isinstance(top, dict):
        raise ConfigInvalidError(
            f"mlc-chat-config.json holds a JSON {_kind(top)} where an object is expected", remedy=_REMEDY
        )
    inner = top.get("model_config", {})
    if not isinstance(inner, dict):
        raise ConfigInvalidError(
            f"`model_config` in mlc-chat-config.json is a JSON {_kind(inner)} where an object is expected",
            remedy=_REMEDY,
        )
    model_type = _text(top, "model_type")
    quantization = _text(top, "quantization")
    merged = {**inner, **{name: value for name, value in top.items() if name != "model_config"}}
    active = merged.pop("active_vocab_size", None) if "active_vocab_size" in top else None
    for name in EXCLUDED:
        merged.pop(name, None)
    if isinstance(active, int | float) and active <= 0:
        active = None
    return ChatConfig(raw, model_type, quantization, merged, active)


def _text(top: dict[str, Any], name: str) -> str:
    value = top.get(name)
    if value is None:
        raise ConfigInvalidError(f"mlc-chat-config.json has no `{name}` at its top level", remedy=_REMEDY)
    if not isinstance(value, str) or not value:
        raise ConfigInvalidError(
            f"`{name}` in mlc-chat-config.json is {json.dumps(value)[:60]} where a name is expected", remedy=_REMEDY
        )
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean", dict: "object"}.get(type(value), "number")
