"""Which functions are compiled together, and which group first. Pure.

A function belongs to the same group as every other one that its text names: what calls a private function must have it
in its module, and LLVM may inline a public one. A text that names a function by accident only makes a group larger.

An LLVM module costs some 16 ms of its own, more than a light function does (a reshape, a shape function). So light
groups share modules: those of one name and a number each have one, the others a few by their names, which stay when
others come or go. What changes with an override is mostly functions of shapes, and these are all in one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def groups(names: Mapping[str, frozenset[str]], aliases: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Functions to groups: the connected parts of who names whom.

    Args:
        names: For each function, the texts in it.
        aliases: Every text that means a function (its variable's name, its symbol), and that function.

    Returns:
        The groups, each sorted, in the order of their first function in ``names``.
    """
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for name, texts in names.items():
        for text in texts:
            named = aliases.get(text)
            if named is not None:
                leader[find(named)] = find(name)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(find(name), []).append(name)
    return [tuple(sorted(each)) for each in found.values()]


LIGHT = 800
"""The weight below which a group shares its module: some 50 ms of code generation, a third of it the module's own."""

ALONE = "shape_func"
"""What TVM calls functions of shapes. They are what another override changes, so they share with nobody else."""

SHARED = 4
"""Modules for light groups that have no numbered fellows."""


def bundles(found: Sequence[tuple[str, ...]], weights: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Groups to what is compiled as one: the heavy ones as they are, light ones joined.

    Args:
        found: From `groups`.
        weights: Of each function.
    """
    heavy: list[tuple[str, ...]] = []
    families: dict[str, list[tuple[str, ...]]] = {}
    for group in found:
        if sum(weights[name] for name in group) >= LIGHT:
            heavy.append(group)
        else:
            families.setdefault(group[0].rstrip("0123456789"), []).append(group)
    light: dict[str | int, list[str]] = {}
    for family, members in families.items():
        place = family if len(members) > 1 or family == ALONE else hashlib.sha256(family.encode()).digest()[0] % SHARED
        light.setdefault(place, []).extend(name for group in members for name in group)
    return heavy + [tuple(sorted(names)) for names in light.values()]


def heaviest_first(weights: Mapping[int, float]) -> list[int]:
    """Indices in the order in which they are to start: the longest one first, so that none starts last alone."""
    return sorted(weights, key=lambda index: (-weights[index], index))
