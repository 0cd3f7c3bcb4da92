"""mlc_jitd."""

from __future__ import annotations
