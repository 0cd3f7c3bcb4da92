"""Part of the compiler's double."""

from __future__ import annotations
