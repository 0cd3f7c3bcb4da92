"""Upstream's packager as a caller of ``jit()``: the import outside, device text, a prefix, the result as a tuple."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mlc_llm.interface import jit


def build(model: str, device: str, overrides: dict[str, Any], model_lib: str | None) -> tuple[str, str | None]:
    """The library and its prefix."""
    jit.log_jit_policy()
    path, prefix = dataclasses.astuple(
        jit.jit(
            model_path=Path(model),
            overrides=overrides,
            device=device,
            system_lib_prefix=model_lib,
            skip_log_jit_policy=True,
        )
    )
    return path, prefix
