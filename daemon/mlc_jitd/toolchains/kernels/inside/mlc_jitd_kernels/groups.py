"""Which functions are compiled together, and which group first. Pure.

A function belongs to the same group as every other one that its text names: what calls a private function must have it
in its module, and LLVM may inline a public one. A text that names a function by accident only makes a group larger.

An LLVM module costs some 16 ms of its own, more than a light function does (a reshape, a shape function). So light
groups share modules, up to a weight: by the digests of their names, first of the name without a number, halved until
they are light enough. One that comes or goes concerns one module, or the two that it is split into. What changes with
an override is mostly functions of shapes, and these share with nobody else.
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


LIGHT = 900
"""The weight below which a group shares its module: some 50 ms of code generation, a third of it the module's own."""

MODULE = 5 * LIGHT
"""The weight that a shared module may have, unless it is one group: as two heavy kernels, so none is waited for."""

ALONE = "shape_func"
"""What TVM calls functions of shapes. They are what another override changes, so they share with nobody else."""

UNITS = 3
"""How many bits of a family's digest say where it is lowered."""


def bundles(found: Sequence[tuple[str, ...]], weights: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Groups to what is compiled as one: the heavy ones as they are, light ones joined.

    Args:
        found: From `groups`.
        weights: Of each function.
    """
    heavy, light, shapes = [], [], []
    for group in found:
        if sum(weights[name] for name in group) >= LIGHT:
            heavy.append(group)
        else:
            (shapes if _family(group[0]) == ALONE else light).append(group)

    def split(some: list[tuple[str, ...]], depth: int) -> list[tuple[str, ...]]:
        names = [name for group in some for name in group]
        if len(some) <= 1 or sum(weights[name] for name in names) <= MODULE:
            return [tuple(sorted(names))] if some else []
        halves: tuple[list[tuple[str, ...]], ...] = ([], [])
        for group in some:
            halves[_bit(group[0], depth)].append(group)
        return split(halves[0], depth + 1) + split(halves[1], depth + 1)

    return heavy + split(shapes, 0) + split(light, 0)


def units(names: Sequence[str]) -> list[list[str]]:
    """Which functions are lowered by the same process: mostly those that share a module, if they are light."""
    found: dict[str | int, list[str]] = {}
    for name in names:
        family = _family(name)
        place = family if family == ALONE else sum(_bit(name, depth) << depth for depth in range(UNITS))
        found.setdefault(place, []).append(name)
    return list(found.values())


def _family(name: str) -> str:
    return name.rstrip("0123456789")


def _bit(name: str, depth: int) -> int:
    """The n-th bit of what says where a name belongs: first of its family's digest, then of its own."""
    family, own = (hashlib.sha256(text.encode()).digest() for text in (_family(name), name))
    digest = family[:1] + own
    return digest[depth // 8 % len(digest)] >> (depth % 8) & 1
