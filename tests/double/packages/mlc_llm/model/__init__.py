"""Part of the double."""

from __future__ import annotations

from .model import MODELS as MODELS
