"""Every message of the wire protocol, in one place; docs/protocol.md is its document.

A message is one ZeroMQ frame that holds one msgpack map: ``verb``, ``id``, and the fields of the class below that the
verb names. Each class is a frozen value. What does not belong here: sockets, retries, meaning.

Compatibility: fields may be added with a default, and a reader ignores fields that it does not know. A field is never
removed, renamed or given another meaning within one ``PROTOCOL`` number. Fields that were added (``LATER``) are left
out where they have their default, so that the bytes of a message that does without them are what they always were.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import msgpack

from mlc_jit.errors import JitError, ProtocolError, error_class

PROTOCOL = 1
LATER = {"later": True}
"""Marks a field that joined its message after the first release of the protocol."""

FEATURES: tuple[str, ...] = ("jit", "progress", "cancel", "status", "list", "stop")

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


class _Shown:
    """How a value looks to people: one ``__repr__`` for all, a third off the time that importing this takes."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _names(type(self)))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Message(_Shown):
    """What all messages share.

    Attributes:
        id: Chosen by the client, unique on its connection; a reply carries the id of its request.
    """

    verb: ClassVar[str]
    id: int = 0


# --- requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Hello(Message):
    """First word of a client; may be sent together with the first request."""

    verb: ClassVar[str] = "hello"
    protocol: int = PROTOCOL
    version: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JitRequest(Message):
    """Ask for a library.

    Attributes:
        config: The bytes of ``mlc-chat-config.json``: the truth travels with the question.
        model_path: Where the client read them; for logs and watching, never part of the key.
        overrides: As given to ``jit()``, without ``opt``; ``None`` values are the same as absent ones.
        opt: Optimisation level or flags, empty for upstream's default (O2).
        device: Device text: ``cuda:0``, ``cpu``, ``android``, a target as JSON, ...
        system_lib_prefix: As given; ``None`` for upstream's rule.
        policy: ON, OFF, REDO or READONLY.
        python: The interpreter whose compiler is wanted.
        toolchain: ``auto`` is mlc_llm where that interpreter has it, else the embedded one on its tvm.
        environment: Those of the declared variables (keyed and passed) that are set in the client.
        prewarm: Nobody is waiting at a screen: goes behind interactive requests.
        progress: Whether ``Progress`` messages are wanted.
    """

    verb: ClassVar[str] = "jit"
    config: bytes
    model_path: str = ""
    overrides: dict[str, int | float | bool | str | None] = field(default_factory=dict)
    opt: str = ""
    device: str
    system_lib_prefix: str | None = None
    policy: Policy = "ON"
    python: str
    toolchain: ToolchainChoice = "auto"
    environment: dict[str, str] = field(default_factory=dict)
    prewarm: bool = False
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Leave(Message):
    """The client no longer waits for the request with this id. No reply.

    Attributes:
        cancel: End a job that runs for nobody else (Ctrl-C of ``mlc-jit compile``); without it a started job finishes.
    """

    verb: ClassVar[str] = "leave"
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cancel(Message):
    """Cancel the job of a key (a prefix of it that is unique will do), whoever waits for it."""

    verb: ClassVar[str] = "cancel"
    key: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StatusRequest(Message):
    """Ask how the daemon is."""

    verb: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ListRequest(Message):
    """Ask for the entries of the cache."""

    verb: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StopRequest(Message):
    """Ask the daemon to drain and end.

    Attributes:
        now: End running compiles instead of letting them finish.
    """

    verb: ClassVar[str] = "stop"
    now: bool = False


# --- replies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Welcome(Message):
    """Answer to ``Hello``."""

    verb: ClassVar[str] = "welcome"
    protocol: int
    version: str = ""
    features: tuple[str, ...] = ()
    pid: int = 0
    home: str = ""
    log_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Heartbeat(Message):
    """Sent every ``HEARTBEAT_SECONDS`` to each connection that waits for something. ``id`` is 0."""

    verb: ClassVar[str] = "heartbeat"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Progress(Message):
    """How far a job is; a joiner first gets the last one of each stage so far.

    Attributes:
        stage: ``queued``, ``locked`` (another process compiles this key), ``start``, the toolchain's own, ``publish``.
        detail: One line for people.
        fraction: 0 to 0.99, never falling while a compile runs; ``None`` where nothing like it was compiled before.
        elapsed: Seconds since the job was first asked for.
        key: Cache key, once known.
        left: Seconds until its end, as far as they can be told from what its like took, else ``None``.
    """

    verb: ClassVar[str] = "progress"
    stage: str
    detail: str = ""
    fraction: float | None = None
    elapsed: float = 0.0
    key: str = ""
    left: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result(Message):
    """The library is there.

    Attributes:
        path: Absolute path of an immutable file; it is never replaced in place.
        system_lib_prefix: What ``JITResult`` carries.
        source: ``hit``, ``compiled`` (this request's own job) or ``joined`` (somebody else's).
        reason: Why it was no hit: ``absent``, ``damaged``, ``redo``; empty for a hit.
        seconds: How long the compile took, now or then.
    """

    verb: ClassVar[str] = "result"
    path: str
    key: str
    system_lib_prefix: str | None = None
    source: Source = "hit"
    reason: str = ""
    seconds: float = 0.0
    toolchain: str = ""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Failure(Message):
    """The request can't be met; ``kind`` names a class of ``mlc_jit.errors``."""

    verb: ClassVar[str] = "error"
    kind: str
    message: str
    remedy: str = ""
    reason: str = ""
    key: str = ""
    log_path: str = ""
    log_tail: str = ""

    @classmethod
    def of(cls, error: JitError, *, id: int) -> Failure:  # noqa: A002 - the wire's field name
        """The message that carries an error; its log tail is cut to what may travel."""
        tail = error.log_tail.encode()[-MAX_LOG_TAIL_BYTES:].decode(errors="ignore")
        return cls(
            id=id,
            kind=error.kind,
            message=error.message,
            remedy=error.remedy,
            reason=error.reason,
            key=error.key,
            log_path=error.log_path,
            log_tail=tail,
        )

    def error(self) -> JitError:
        """The error that this message carries."""
        return error_class(self.kind)(
            self.message,
            remedy=self.remedy,
            reason=self.reason,
            key=self.key,
            log_path=self.log_path,
            log_tail=self.log_tail,
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cancelled(Message):
    """Answer to ``Cancel``: the key whose job is being ended."""

    verb: ClassVar[str] = "cancelled"
    key: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobReport(_Shown):
    """One job in a ``Status``; ``detail``, ``fraction`` and ``left`` as in ``Progress``."""

    key: str
    state: str
    model: str = ""
    device: str = ""
    stage: str = ""
    elapsed: float = 0.0
    waiters: int = 0
    pid: int = 0
    detail: str = field(default="", metadata=LATER)
    fraction: float | None = field(default=None, metadata=LATER)
    left: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Status(Message):
    """Answer to ``StatusRequest``. Times in seconds, sizes in bytes."""

    verb: ClassVar[str] = "status-is"
    version: str
    pid: int
    uptime: float
    home: str
    socket: str
    log_path: str
    draining: bool = False
    slots: int = 0
    jobs: tuple[JobReport, ...] = ()
    entries: int = 0
    bytes: int = 0
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EntryReport(_Shown):
    """One entry in a ``Listing``. ``created`` is a Unix time."""

    key: str
    path: str
    size: int
    created: float
    seconds: float
    model: str
    device: str
    toolchain: str
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Listing(Message):
    """Answer to ``ListRequest``; sent in parts when it is long, ``more`` on all but the last."""

    verb: ClassVar[str] = "listing"
    entries: tuple[EntryReport, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Stopping(Message):
    """Answer to ``StopRequest``: how many jobs are still running."""

    verb: ClassVar[str] = "stopping"
    pid: int
    jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Unsupported(Message):
    """Answer to a verb that this daemon does not know."""

    verb: ClassVar[str] = "unsupported"
    asked: str
    features: tuple[str, ...] = ()


REQUESTS: dict[str, type[Message]] = {
    cls.verb: cls for cls in (Hello, JitRequest, Leave, Cancel, StatusRequest, ListRequest, StopRequest)
}
REPLIES: dict[str, type[Message]] = {
    cls.verb: cls
    for cls in (
        Welcome, Heartbeat, Progress, Result, Failure, Cancelled, Status, Listing, Stopping, Unsupported,
    )
}  # fmt: skip

_M = TypeVar("_M", bound=Message)


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
    for name in _names(type(message)):
        value = getattr(message, name)
        fields[name] = value if type(value) in _AS_THEY_ARE else _plain(value)
    for name, default in _later(type(message)):
        if fields[name] == default:
            del fields[name]
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    return packed


def decode(payload: bytes | memoryview, table: dict[str, type[Message]], *, strict: bool) -> Message:
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
        fields = msgpack.unpackb(payload, max_map_len=4096, max_array_len=65536, unicode_errors="surrogateescape")
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
    import msgspec  # noqa: PLC0415 - 40 ms that a hit does not pay

    return msgspec.convert(fields, cls, builtin_types=(bytes,))


def _trusting(fields: dict[str, Any], cls: type[_M]) -> _M:
    known: dict[str, Any] = {name: fields[name] for name in _names(cls) if name in fields}
    for name, value in known.items():
        if type(value) is list:
            known[name] = tuple(value)
    return cls(**known)


_NAMES: dict[type, tuple[str, ...]] = {}


def _names(cls: type) -> tuple[str, ...]:
    names = _NAMES.get(cls)
    if names is None:
        names = _NAMES[cls] = tuple(f.name for f in dataclasses.fields(cls))
    return names


_LATER: dict[type, tuple[tuple[str, Any], ...]] = {}


def _later(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a class that are marked ``LATER``, with their defaults."""
    later = _LATER.get(cls)
    if later is None:
        marked = (f for f in dataclasses.fields(cls) if f.metadata.get("later"))
        later = _LATER[cls] = tuple((f.name, f.default) for f in marked)
    return later


_AS_THEY_ARE = frozenset({str, int, float, bool, bytes, type(None)})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        later = dict(_later(type(value)))
        found = ((name, getattr(value, name)) for name in _names(type(value)))
        return {name: _plain(each) for name, each in found if name not in later or each != later[name]}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
