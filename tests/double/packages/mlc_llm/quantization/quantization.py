"""The quantizations that the double knows."""

from __future__ import annotations

QUANTIZATION: dict[str, object] = {
    "q0f16": None,
    "q0f32": None,
    "q4f16_1": None,
    "q4f32_1": None,
}
