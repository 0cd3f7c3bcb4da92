"""Why a request is a hit or a miss, in words: its key's parts against those of the nearest known entries. Pure.

A key says only that something differs. The parts say what: they are compared by their hashes first, and where those
differ, their values are taken apart to the leaf. What does not belong here: reading manifests (``known``), and how a
terminal shows it (``mlc_jit.cli.explain``).
"""

from __future__ import annotations

from mlc_jitd.explain.differences import LEAVES, differences
from mlc_jitd.explain.nearness import nearest
from mlc_jitd.explain.values import Asked, Difference, Explanation, Near, Summary, There
from mlc_jitd.explain.words import NEAREST, explain, part_words

__all__ = [
    "LEAVES",
    "NEAREST",
    "Asked",
    "Difference",
    "Explanation",
    "Near",
    "Summary",
    "There",
    "differences",
    "explain",
    "nearest",
    "part_words",
]
