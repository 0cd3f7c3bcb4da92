"""The model types that the double knows; their config classes keep a few fields, as upstream's do."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class DoubleConfig:
    """A config class with one required field and one default."""

    hidden_size: int
    context_window_size: int = 0
    prefill_chunk_size: int = 0
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, source: dict[str, Any]) -> DoubleConfig:
        """Known fields, and the rest as ``kwargs``."""
        names = {field.name for field in dataclasses.fields(cls)}
        known = {key: value for key, value in source.items() if key in names}
        return cls(**known, kwargs={key: value for key, value in source.items() if key not in names})

    def asdict(self) -> dict[str, Any]:
        """The class's own fields."""
        found = dataclasses.asdict(self)
        found.pop("kwargs")
        return found


@dataclasses.dataclass
class Model:
    """A model type."""

    name: str
    config: type[DoubleConfig]


MODELS: dict[str, Model] = {
    "llama": Model("llama", DoubleConfig),
    "qwen2": Model("qwen2", DoubleConfig),
    "qwen3": Model("qwen3", DoubleConfig),
    "bert": Model("bert", DoubleConfig),
}
