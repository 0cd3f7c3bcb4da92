"""What an explanation is made of: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlc_jitd.identity import Part
    from mlc_jitd.store import PartRecord

    Edits = Callable[[str, str], tuple[str, ...] | None]
    """The files that changed between two fingerprints of a toolchain, or ``None`` where that was not seen."""

MOST_SAID = 4
"""Differences in one line; `mlc-jit explain` shows them all."""

ABSENT = "\0absent"
"""Stands for a value that is not there; no JSON value of a part is this text."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a known entry, to find the nearest ones: a few hundred bytes.

    Attributes:
        hashes: Of the parts, in the order of ``PART_NAMES``; an empty text for one that it lacks.
        model: Folder of the model that was asked for first.
        created: Unix time of the publish.
    """

    key: str
    hashes: tuple[str, ...]
    model: str = ""
    model_type: str = ""
    quantization: str = ""
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, as far as it is compared."""

    parts: tuple[Part, ...]
    model: str
    model_type: str
    quantization: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class There:
    """A near entry, read in full."""

    summary: Summary
    parts: Mapping[str, PartRecord]
    toolchain: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes:
        part: The key's part.
        field: Where in it, with dots; empty for the whole.
        there: The entry's value as JSON text, empty where it has none; of a long one the beginning.
        here: What is asked for, likewise.
        words: For people.
    """

    part: str
    field: str
    there: str
    here: str
    words: str


@dataclass(frozen=True, slots=True)
class Near:
    """A near entry, and in what it differs."""

    summary: Summary
    toolchain: str
    differences: tuple[Difference, ...]

    @property
    def words(self) -> str:
        """The differences in one line, the first ones if there are many."""
        said = [each.words for each in self.differences[:MOST_SAID]]
        more = len(self.differences) - len(said)
        return "; ".join([*said, *([f"{more} more"] if more else [])])


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why there is no entry.

    Attributes:
        words: One sentence without its stop.
        compared: How many entries were looked at.
        complete: Whether those are all of them.
        nearest: Nearest first.
    """

    words: str
    compared: int = 0
    complete: bool = True
    nearest: tuple[Near, ...] = ()
