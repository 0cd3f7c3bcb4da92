"""mlc-jitd's client: what serving processes import."""

from __future__ import annotations
