"""As much of upstream's flags as the daemon asks for."""

from __future__ import annotations

import dataclasses


class OptimizationFlags:
    """A text that prints itself."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"flags of {self._source}"

    @staticmethod
    def from_str(source: str) -> OptimizationFlags:
        """Any text."""
        return OptimizationFlags(source)


@dataclasses.dataclass
class ModelConfigOverride:
    """Upstream's names."""

    context_window_size: int | None = None
    sliding_window_size: int | None = None
    prefill_chunk_size: int | None = None
    attention_sink_size: int | None = None
    max_batch_size: int | None = None
    tensor_parallel_shards: int | None = None
    pipeline_parallel_stages: int | None = None
    disaggregation: bool | None = None
