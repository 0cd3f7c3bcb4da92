"""Whether a device exists: the CPU does."""

from __future__ import annotations


def _device_exists(device: object) -> bool:
    return bool(device)
