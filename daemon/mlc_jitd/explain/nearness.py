"""Which known entries are nearest to what is asked, by the hashes of their parts: milliseconds for ten thousand."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mlc_jitd.identity.canonical import PART_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlc_jitd.explain.values import Asked, Summary

_WEIGHTS = {"format": 1, "overrides": 2, "opt": 2, "prefix": 2, "environment": 2, "target": 4, "toolchain": 4}
_EDITED, _SAME_TYPE, _ALIKE, _OTHER = 8, 18, 24, 32
"""What another model costs: an edited config of the same folder, the same type and quantization, one of both, neither.
All other parts together cost 17: the same model, whatever else differs, is nearer than another one."""


def nearest(asked: Asked, known: Iterable[Summary], most: int) -> list[tuple[int, Summary]]:
    """The entries whose parts differ least from what is asked, with their distance; of equal ones the newest first."""
    wanted = {part.name: part.sha256 for part in asked.parts}
    hashes = tuple(wanted.get(name, "") for name in PART_NAMES)

    def distance(summary: Summary) -> int:
        theirs = summary.hashes
        total = 0 if theirs[_MODEL] == hashes[_MODEL] else _model_distance(asked, summary)
        for mine, other, weight in zip(hashes, theirs, _BY_PLACE, strict=True):
            if mine != other:
                total += weight
        return total

    found = ((distance(summary), summary) for summary in known)
    return heapq.nsmallest(most, found, key=lambda each: (each[0], -each[1].created, each[1].key))


_MODEL = PART_NAMES.index("model")
_BY_PLACE = tuple(_WEIGHTS.get(name, 0) for name in PART_NAMES)


def _model_distance(asked: Asked, summary: Summary) -> int:
    alike = (summary.model_type == asked.model_type) + (summary.quantization == asked.quantization)
    if alike == 2 and summary.model and summary.model == asked.model:  # noqa: PLR2004 - both
        return _EDITED
    return (_OTHER, _ALIKE, _SAME_TYPE)[alike]
