"""What all messages share: the envelope, the protocol's numbers, the words that fields may hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

PROTOCOL = 1
LATER = {"later": True}
"""Marks a field that joined its message after the first release of the protocol."""

MAX_MESSAGE_BYTES = 1 << 20
"""A longer message is refused by the socket itself (``ZMQ_MAXMSGSIZE``); a config is 2 to 5 KB."""

MAX_LOG_TAIL_BYTES = 16 << 10
"""How much of a compiler's log travels in one ``Failure``."""

HEARTBEAT_SECONDS = 2.0
"""How often the daemon speaks to a client that waits, whatever it is doing."""

SILENCE_SECONDS = 10.0
"""A client that has heard nothing for this long gives the daemon up (and does not kill it)."""

Policy = Literal["ON", "OFF", "REDO", "READONLY"]
ToolchainChoice = Literal["auto", "mlc_llm", "tvm"]
Source = Literal["hit", "compiled", "joined"]


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
