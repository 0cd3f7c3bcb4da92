"""schedule."""

from __future__ import annotations
