"""One typed message as the bytes of one frame, and back; which verb is which class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mlc_jit.errors import ProtocolError
from mlc_jit.messages.base import Message, later, names
from mlc_jit.messages.core import (
    Failure,
    Heartbeat,
    Hello,
    JitRequest,
    Leave,
    Progress,
    Result,
    Unsupported,
    Welcome,
)
from mlc_jit.messages.frames import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

_M = TypeVar("_M", bound=Message)


class Table(Mapping[str, type[Message]]):
    """The verbs of one direction; those of ``admin`` are loaded when a verb is not the core's."""

    def __init__(self, direction: str, core: tuple[type[Message], ...]) -> None:
        self._direction = direction
        self._core = {cls.verb: cls for cls in core}
        self._all: dict[str, type[Message]] | None = None

    def __getitem__(self, verb: str) -> type[Message]:
        return self._core.get(verb) or self._complete()[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(self._complete())

    def __len__(self) -> int:
        return len(self._complete())

    def _complete(self) -> dict[str, type[Message]]:
        if self._all is None:
            from mlc_jit.messages import admin  # noqa: PLC0415 - see the class

            more = {cls.verb: cls for cls in getattr(admin, self._direction)}
            self._all = self._core | more
        return self._all


REQUESTS = Table("REQUESTS", (Hello, JitRequest, Leave))
REPLIES = Table("REPLIES", (Welcome, Heartbeat, Progress, Result, Failure, Unsupported))


class UnknownVerbError(ProtocolError):
    """A well-formed message with a verb that is not in the table; ``verb`` and ``id`` allow an answer."""

    def __init__(self, message: str, *, verb: str = "", id: int = 0, **facts: str) -> None:  # noqa: A002
        super().__init__(message, **facts)
        self.verb = verb
        self.id = id


class InvalidMessageError(ProtocolError):
    """A message whose envelope was readable but whose fields were not; ``id`` allows an answer."""

    def __init__(self, message: str, *, id: int = 0, **facts: str) -> None:  # noqa: A002
        super().__init__(message, **facts)
        self.id = id


def encode(message: Message) -> bytes:
    """One message as the bytes of one frame."""
    fields = {"verb": message.verb}
    for name in names(type(message)):
        value = getattr(message, name)
        fields[name] = value if type(value) in _AS_THEY_ARE else _plain(value)
    for name, default in later(type(message)):
        if getattr(message, name) == default:
            del fields[name]
    return pack(fields)


def decode(payload: bytes | memoryview, table: Mapping[str, type[Message]], *, strict: bool) -> Message:
    """One frame as one typed value.

    Args:
        payload: The frame's bytes.
        table: ``REQUESTS`` or ``REPLIES``.
        strict: Check the type of every field, with msgspec; else only that the required fields are there. The daemon
            is strict with everybody; ``jit()`` trusts a daemon whose socket the kernel showed to be its own user's.

    Raises:
        UnknownVerbError: The verb is not in the table.
        InvalidMessageError: A field is missing or has the wrong type.
        ProtocolError: Anything else; nothing but these three comes out, whatever the bytes.
    """
    try:
        fields = unpack(payload)
    except Exception as error:
        raise ProtocolError(f"not a msgpack message: {type(error).__name__}") from error
    if type(fields) is not dict:
        raise ProtocolError(f"a message is a map, not {type(fields).__name__}")
    verb, id_ = fields.get("verb"), fields.get("id", 0)
    if type(verb) is not str or type(id_) is not int or not 0 <= id_ < 1 << 63:
        raise ProtocolError("a message has a text `verb` and a non-negative integer `id`")
    cls = table.get(verb)
    if cls is None:
        raise UnknownVerbError(f"unknown verb {verb[:40]!r}", verb=verb[:40], id=id_)
    try:
        return _strict(fields, cls) if strict else _trusting(fields, cls)
    except Exception as error:
        raise InvalidMessageError(f"{verb}: {error}", id=id_) from error


def _strict(fields: dict[str, Any], cls: type[_M]) -> _M:
    import msgspec  # noqa: PLC0415 - tens of ms that who trusts does without: a client that waits for a compile

    return msgspec.convert(fields, cls, builtin_types=(bytes,))


def _trusting(fields: dict[str, Any], cls: type[_M]) -> _M:
    known: dict[str, Any] = {name: fields[name] for name in names(cls) if name in fields}
    for name, value in known.items():
        if type(value) is list:
            known[name] = tuple(value)
    return cls(**known)


_AS_THEY_ARE = frozenset({str, int, float, bool, bytes, type(None)})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        added = dict(later(type(value)))
        found = ((name, getattr(value, name)) for name in names(type(value)))
        return {name: _plain(each) for name, each in found if name not in added or each != added[name]}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
