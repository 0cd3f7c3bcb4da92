"""Part of the double."""

from __future__ import annotations

from .quantization import QUANTIZATION as QUANTIZATION
