"""What a check found, and what all checks go by: plain values."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlc_jit.errors import JitError
from mlc_jit.locations import locate
from mlc_jitd.config import gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jit.locations import Locations
    from mlc_jitd.config import Settings

Level = Literal["ok", "note", "problem"]
"""All is well; it works and could be better; something that is asked for will fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: A word that names it.
        found: What is there, in a sentence without its stop.
        follows: What that means for compiles.
        remedy: What to do; never empty for a problem.
        facts: The figures, for programs.
    """

    check: str
    level: Level
    found: str
    follows: str = ""
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom the checks are about: the caller's environment. ``places`` or ``settings`` may be in trouble themselves."""

    environ: Mapping[str, str]
    places: Locations | None
    settings: Settings
    troubles: tuple[tuple[str, JitError], ...]

    @classmethod
    def here(cls) -> Patient:
        """This process's."""
        troubles: list[tuple[str, JitError]] = []
        places = None
        try:
            places = locate()
        except JitError as error:
            troubles.append(("home", error))
        found = gather()
        troubles += [("settings", slip) for slip in found.slips]
        return cls(os.environ, places, found.settings, tuple(troubles))


def problem(check: str, error: JitError) -> Finding:
    """The finding that an error is."""
    return Finding(
        check=check,
        level="problem",
        found=error.message.rstrip("."),
        remedy=error.remedy or "See the message.",
        facts={"error": error.kind, **error.facts()},
    )


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - a KiB
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
