"""In what an entry differs from what is asked, part by part and to the leaf, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlc_jitd.explain.values import ABSENT, Difference
from mlc_jitd.identity.canonical import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlc_jitd.explain.values import Asked, Edits, There

LEAVES = 5
"""Differences of one part that are put into words; of more, their number is told."""

MOST_TEXT = 60


def differences(asked: Asked, there: There, *, edits: Edits = lambda _before, _now: None) -> tuple[Difference, ...]:
    """What makes an entry another one than the one asked for: at least one for each part that differs, and no other.

    Args:
        asked: What is asked.
        there: The entry.
        edits: The files that changed between two fingerprints of a toolchain, or ``None``.
    """
    found: list[Difference] = []
    for part in asked.parts:
        record = there.parts.get(part.name)
        if record is not None and record.sha256 == part.sha256:
            continue
        value = ABSENT if record is None else record.value
        if part.name == "toolchain":
            found += _bounded(part.name, _toolchain(value, part.value, edits(there.fingerprint, asked.fingerprint)))
        else:
            found += _bounded(part.name, _plainly(part.name, value, part.value))
    return tuple(found)


def _bounded(part: str, found: Iterable[Difference]) -> list[Difference]:
    every = list(found)
    if not every:
        return [Difference(part, "", "", "", f"{TITLES.get(part, part)} differs")]
    if len(every) > LEAVES + 1:  # "and 1 more" would take the place of that one
        more = len(every) - LEAVES
        return [*every[:LEAVES], Difference(part, "", "", "", f"{TITLES.get(part, part)}: {more} further differences")]
    return every


def leaves(there: Any, here: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The places in two values where they differ; integers and floats are never equal, as in a key."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys(), key=str):
            yield from leaves(there.get(name, ABSENT), here.get(name, ABSENT), (*path, str(name)))
    elif canonical(there) != canonical(here):
        yield path, there, here


def _plainly(part: str, there: Any, here: Any) -> Iterator[Difference]:
    """The leaves of a part, without those that say the same thing again (a target's host, say)."""
    seen: set[tuple[str, bytes, bytes]] = set()
    for path, before, now in sorted(leaves(there, here), key=lambda leaf: (len(leaf[0]), leaf[0])):
        same = (path[-1] if path else "", canonical(before), canonical(now))
        if same in seen:
            continue
        seen.add(same)
        yield _difference(part, path, before, now)


def _difference(part: str, path: tuple[str, ...], there: Any, here: Any) -> Difference:
    words = f"{_name(part, path)} {said(there)} there, {said(here)} here"
    if _is_digest(there) and _is_digest(here):
        words = f"{_name(part, path)} differs"
    return Difference(part, ".".join(path), _json(there), _json(here), printable(words))


TITLES = {
    "format": "the key's scheme",
    "model": "model",
    "overrides": "overrides",
    "opt": "opt",
    "prefix": "system library prefix",
    "target": "target",
    "toolchain": "toolchain",
    "environment": "environment",
}
_FIELDS: dict[tuple[str, ...], str] = {
    ("target", "cpu"): "the CPU's instruction set",
    ("target", "preset"): "target preset",
    ("target", "suffix"): "the library's suffix",
}


def _name(part: str, path: tuple[str, ...]) -> str:
    known = _FIELDS.get((part, *path))
    if known is not None:
        return known
    if part == "model" and path[:1] == ("config",):
        path = path[1:]
    if part == "target" and path[:1] in (("target",), ("facts",)):
        path = path[1:]
    field = ".".join(path)
    match part:
        case "overrides" if field:
            return f"override {field}"
        case "target" if field:
            return f"target: {field}"
        case "model" | "environment" if field:
            return field
        case _:
            return TITLES.get(part, part) + (f": {field}" if field else "")


def _toolchain(there: Any, here: Any, edited: tuple[str, ...] | None) -> Iterator[Difference]:
    """A toolchain's differences, as one speaks of an upgrade."""
    builds: list[Difference] = []
    for path, before, now in leaves(there, here):
        if path[:1] == ("packages",):
            yield from _package(path, (before, now), (there, here), builds)
        elif path == ("own",):
            builds.append(_told(path, before, now, "mlc-jitd's own compiler code changed"))
        elif path[:1] == ("startup",):
            builds.append(_told(path, before, now, f"{path[-1]}.py {_fate(before, now)}"))
        elif path in _UPGRADES:
            yield _told(path, before, now, _UPGRADES[path].format(_bare(before), _bare(now)))
        elif path[:1] == ("tools",):
            yield _told(path, before, now, f"{path[-1]}: {said(before)} there, {said(now)} here")
        else:
            yield _difference("toolchain", path, before, now)
    if builds and edited:
        first = builds[0]
        yield Difference("toolchain", first.field, first.there, first.here, _edited(edited))
    else:
        yield from builds


_UPGRADES = {
    ("name",): "compiled by {}, now by {}",
    ("python", "version"): "compiled under Python {}, now {}",
}


def _package(
    path: tuple[str, ...], leaf: tuple[Any, Any], whole: tuple[Any, Any], builds: list[Difference]
) -> Iterator[Difference]:
    """A package that came, went or was upgraded; one that was only built anew goes to ``builds``."""
    before, now = leaf
    name = path[1] if len(path) > 1 else ""
    if path[2:] == ("version",):
        yield _told(path, before, now, f"compiled with {name} {_bare(before)}, now {_bare(now)}")
    elif path[2:] == ("build",):
        versions = [value["packages"][name].get("version") for value in whole]
        if versions[0] == versions[1]:  # else the upgrade says it
            builds.append(_told(path, before, now, f"another build of {name} {_bare(versions[0])}"))
    elif isinstance(before, dict):
        yield _told(path, before, now, f"compiled with {name} {_bare(before.get('version'))}, now without")
    elif isinstance(now, dict):
        yield _told(path, before, now, f"compiled without {name}, now with {_bare(now.get('version'))}")


def _edited(files: tuple[str, ...]) -> str:
    names = printable(", ".join(map(_short_path, files[:LEAVES])))
    if len(files) == 1:
        return f"the toolchain's file {names} was edited"
    more = f" and {len(files) - LEAVES} more" if len(files) > LEAVES else ""
    return f"the toolchain's files {names}{more} were edited"


def _told(path: tuple[str, ...], there: Any, here: Any, words: str) -> Difference:
    return Difference("toolchain", ".".join(path), _json(there), _json(here), printable(words))


def _fate(there: Any, here: Any) -> str:
    if there == ABSENT:
        return "is new"
    return "is gone" if here == ABSENT else "was edited"


def _short_path(path: str) -> str:
    """The end of a path that tells files of one package apart."""
    return "/".join(path.split("/")[-3:])


def _json(value: Any) -> str:
    if value == ABSENT:
        return ""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 4 * MOST_TEXT else text[: 4 * MOST_TEXT - 1] + "…"


def said(value: Any) -> str:
    """A value for people, of a bounded length."""
    if value == ABSENT:
        return "not given"
    if value is None:
        return "none"
    text = value if isinstance(value, str) and value else json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def printable(text: str) -> str:
    """A text that does nothing to a terminal or a log: configs come from anywhere."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def _bare(value: Any) -> str:
    return "?" if value is None or value == ABSENT else said(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and all(each in "0123456789abcdef" for each in value)  # noqa: PLR2004
