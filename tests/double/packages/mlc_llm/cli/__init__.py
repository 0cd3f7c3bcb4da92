"""Part of the double."""

from __future__ import annotations
