"""Which functions are compiled together, and which group first. Pure.

A function belongs to the same group as every other one that its text names: what calls a private function must have it
in its module, and LLVM may inline a public one. A text that names a function by accident only makes a group larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def heaviest_first(weights: Mapping[int, float]) -> list[int]:
    """Indices in the order in which they are to start: the longest one first, so that none starts last alone."""
    return sorted(weights, key=lambda index: (-weights[index], index))
