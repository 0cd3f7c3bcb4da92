"""What the host has, read now: `read(root)` gives a `Capacity`. Reads only; decides nothing, and never raises."""

from __future__ import annotations

from mlc_jitd.schedule.capacity.reader import read

__all__ = ["read"]
