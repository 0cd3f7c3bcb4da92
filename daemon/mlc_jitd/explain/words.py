"""The sentence that says why nothing known answers a request, and a part's value in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jitd.explain.differences import differences, printable, said
from mlc_jitd.explain.values import Explanation, Near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlc_jitd.explain.values import Asked, Edits, There
    from mlc_jitd.identity import Part

NEAREST = 3
"""Entries that an explanation compares with."""


def explain(
    asked: Asked,
    near: Sequence[tuple[int, There]],
    *,
    compared: int,
    complete: bool = True,
    formerly: bool = False,
    edits: Edits = lambda _before, _now: None,
) -> Explanation:
    """Why nothing known answers what is asked.

    Args:
        asked: What is asked.
        near: The nearest entries and their distances; one with the same key is no reason and is left out.
        compared: How many entries there were.
        complete: Whether those were all.
        formerly: An entry with this very key was there.
        edits: See ``differences``.
    """
    wanted = {part.name: part.sha256 for part in asked.parts}
    found = [
        (distance, Near(each.summary, each.toolchain, differences(asked, each, edits=edits)))
        for distance, each in near
        if {name: record.sha256 for name, record in each.parts.items()} != wanted
    ]
    found.sort(key=lambda each: (each[0], len(each[1].differences), -each[1].summary.created))
    first = tuple(each for _, each in found[:NEAREST])
    words = _sentence(asked, first, compared, complete=complete, formerly=formerly)
    return Explanation(words, compared, complete, first)


def _sentence(asked: Asked, found: Sequence[Near], compared: int, *, complete: bool, formerly: bool) -> str:
    if formerly:
        return "it was compiled here, and its entry has been collected or removed since"
    if not found:
        return "the cache is empty" if not compared and complete else "no other entry is known yet"
    first = found[0]
    what = f"{asked.model_type} {asked.quantization}"
    if (first.summary.model_type, first.summary.quantization) != (asked.model_type, asked.quantization):
        some = f"any of the {compared} entries" if complete else f"any of the {compared} entries known so far"
        return f"no {what} model is compiled in {some if compared > 1 else 'the one entry there is'}"
    where = f"the nearest entry{'' if complete else ' known so far'}, {first.summary.key[:12]}"
    folder = printable(first.summary.model.rstrip("/").rpartition("/")[2])
    model_differs = any(each.part == "model" for each in first.differences)
    if folder and model_differs and first.summary.model != asked.model:
        where += f" (for {folder})"
    return f"{where}, differs: {first.words}"


def part_words(part: Part) -> str:
    """A part's value for people, in one line."""
    value = part.value
    match part.name, value:
        case "model", {"model_type": kind, "quantization": quantization, "config": dict(config)}:
            size = [f"{name} {said(config[name])}" for name in _TELLING if name in config]
            return ", ".join([f"{said(kind)} {said(quantization)}", *size])
        case "target", {"preset": str(preset)}:
            return said(preset)
        case "target", {"target": {"kind": kind, **rest}}:
            return ", ".join([said(kind), *(f"{name} {said(rest[name])}" for name in _TARGET if rest.get(name))])
        case "toolchain", {"packages": dict(packages)}:
            there = {name: found for name, found in packages.items() if isinstance(found, dict)}
            return ", ".join(f"{printable(name)} {said(found.get('version'))}" for name, found in there.items())
        case _, dict():
            pairs = (f"{printable(name)}={said(each)}" for name, each in sorted(value.items())[:MOST_PAIRS])
            return "; ".join(pairs) or "none"
        case _:
            return said(value)


MOST_PAIRS = 8

_TELLING = ("hidden_size", "num_hidden_layers", "context_window_size")
_TARGET = ("arch", "mcpu", "mtriple")
