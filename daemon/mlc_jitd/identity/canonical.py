"""Canonical JSON, and a key made of named parts.

Equal values give equal bytes whatever their order; an integer and a float never do (10000 and 10000.0 compile
differently). What does not belong here: what the parts mean.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

FORMAT = 1
"""Version of the key scheme: raise it whenever an old entry must not be found by a new key."""

PART_NAMES: tuple[str, ...] = (
    "format",
    "model",
    "overrides",
    "opt",
    "prefix",
    "target",
    "toolchain",
    "environment",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One named input of a key.

    Attributes:
        name: One of ``PART_NAMES``.
        value: What it is, as plain JSON values, so that a miss can be explained.
        sha256: Of its canonical JSON, hex.
    """

    name: str
    value: Any
    sha256: str


def canonical(value: Any) -> bytes:
    """A JSON-able value as bytes that depend on nothing but the value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def part(name: str, value: Any) -> Part:
    """A named part with its hash."""
    return Part(name, value, digest(value))


def key_of(parts: tuple[Part, ...]) -> str:
    """The key: SHA-256 over the parts' names and hashes, 64 hex digits."""
    assert tuple(p.name for p in parts) == PART_NAMES
    return digest([[p.name, p.sha256] for p in parts])
