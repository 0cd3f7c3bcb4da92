"""Upstream's ``jit()`` as a double: its signature, its result, and its habit of changing the caller's overrides."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any

from .compiler_flags import ModelConfigOverride  # noqa: F401 - upstream's module has it too

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

MLC_JIT_POLICY = os.environ.get("MLC_JIT_POLICY", "ON")


@dataclasses.dataclass
class JITResult:
    """Upstream's fields."""

    model_lib_path: str
    system_lib_prefix: str | None = None


def log_jit_policy() -> None:
    """As upstream."""
    logger.info("MLC_JIT_POLICY = %s", MLC_JIT_POLICY)


def jit(
    model_path: Path,
    overrides: dict[str, Any],
    device: Any,
    system_lib_prefix: str | None = None,
    *,
    skip_log_jit_policy: bool = False,
) -> JITResult:
    """Compiles nothing: its path says that it was upstream's function that was called."""
    if not skip_log_jit_policy:
        log_jit_policy()
    overrides.pop("opt", None)
    return JITResult(f"upstream's for {model_path.name} on {device}", system_lib_prefix)
