"""The messages that asking for a library takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mlc_jit.errors import JitError, error_class
from mlc_jit.messages.base import LATER, Message
from mlc_jit.messages.frames import MAX_LOG_TAIL_BYTES, PROTOCOL, Policy, Source, ToolchainChoice


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
        acceleration: ``off``: a compile for this request does not compile kernels apart nor reuse any. No part of the
            key, since the library computes the same: a hit, or a running compile, answers it as it is.
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
    acceleration: Literal["", "off"] = field(default="", metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Leave(Message):
    """The client no longer waits for the request with this id. No reply.

    Attributes:
        cancel: End a job that runs for nobody else (Ctrl-C of ``mlc-jit compile``); without it a started job finishes.
    """

    verb: ClassVar[str] = "leave"
    cancel: bool = False


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
        stage: ``queued``, ``locked`` (another process compiles this key), ``elsewhere`` (another host does),
            ``fetching`` (from the bucket), ``start``, the toolchain's own, ``publish``.
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
        detail: Why it was no hit, in words; empty for a hit.
        warning: What the caller should know of this library; for people.
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
    detail: str = field(default="", metadata=LATER)
    warning: str = field(default="", metadata=LATER)


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
class Unsupported(Message):
    """Answer to a verb that this daemon does not know."""

    verb: ClassVar[str] = "unsupported"
    asked: str
    features: tuple[str, ...] = ()
