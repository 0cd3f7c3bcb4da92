"""What all typed messages share: the envelope, and the marks of fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

LATER = {"later": True}
"""Marks a field that joined its message after the first release of the protocol."""


class Shown:
    """How a value looks to people: one ``__repr__`` for all, a third off the time that importing this takes."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names(type(self)))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Message(Shown):
    """What all messages share.

    Attributes:
        id: Chosen by the client, unique on its connection; a reply carries the id of its request.
    """

    verb: ClassVar[str]
    id: int = 0


_NAMES: dict[type, tuple[str, ...]] = {}


def names(cls: type) -> tuple[str, ...]:
    """The names of a message's fields."""
    found = _NAMES.get(cls)
    if found is None:
        found = _NAMES[cls] = tuple(f.name for f in dataclasses.fields(cls))
    return found


_LATER: dict[type, tuple[tuple[str, Any], ...]] = {}


def later(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a class that are marked ``LATER``, with their defaults."""
    found = _LATER.get(cls)
    if found is None:
        marked = (f for f in dataclasses.fields(cls) if f.metadata.get("later"))
        found = _LATER[cls] = tuple((f.name, f.default) for f in marked)
    return found
