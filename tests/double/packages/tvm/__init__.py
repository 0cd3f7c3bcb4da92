"""As little of tvm as the double of mlc_llm needs."""

from __future__ import annotations

__version__ = "0.0.double"
