"""Upstream's engine as a caller of ``jit()``: the import inside, a Path, a dict with None values, the result's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def process_model_args(model: str, device: Any) -> tuple[str, dict[str, Any]]:
    """The library for a model, and the overrides as ``jit()`` left them."""
    from mlc_llm.interface import jit

    overrides = {"context_window_size": None, "prefill_chunk_size": 64, "max_batch_size": None, "opt": None}
    lib = jit.jit(model_path=Path(model), overrides=overrides, device=device).model_lib_path
    return lib, overrides
