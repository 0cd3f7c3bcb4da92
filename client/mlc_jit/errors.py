"""Every error that a caller of mlc-jitd can meet, and nothing else.

The tree (the kind that travels on the wire stands behind each)::

    JitError(RuntimeError)                         error
    ├── RequestError(ValueError)                   bad-request
    │   ├── ConfigNotFoundError(FileNotFoundError) config-not-found
    │   ├── ConfigInvalidError                     config-invalid
    │   ├── OverrideInvalidError                   override-invalid
    │   └── DeviceInvalidError                     device-invalid
    ├── PolicyError
    │   ├── JitDisabledError                       disabled
    │   └── NotCachedError                         not-cached
    ├── ToolchainNotFoundError                     toolchain-not-found
    ├── CompileError                               compile-failed
    │   ├── CompileTimedOutError                   compile-timed-out
    │   ├── CompileOutOfMemoryError                compile-out-of-memory
    │   ├── CompileKilledError                     compile-killed
    │   └── CompileCancelledError                  compile-cancelled
    ├── StoreError                                 store
    │   ├── StoreFullError                         store-full
    │   └── StoreUnwritableError                   store-unwritable
    ├── WaitTimedOutError(TimeoutError)            wait-timed-out
    └── DaemonError                                daemon
        ├── DaemonUnavailableError                 daemon-unavailable
        ├── DrainingError                          draining
        ├── BusyError                              busy
        ├── AccessRefusedError                     access-refused
        └── ProtocolError                          protocol

Upstream's callers expect ``RuntimeError`` for OFF, for a READONLY miss and for a failed compile, and
``FileNotFoundError`` for a model folder without a config: these subclass them. Every error pickles, so it crosses
process pools.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AccessRefusedError",
    "BusyError",
    "CompileCancelledError",
    "CompileError",
    "CompileKilledError",
    "CompileOutOfMemoryError",
    "CompileTimedOutError",
    "ConfigInvalidError",
    "ConfigNotFoundError",
    "DaemonError",
    "DaemonUnavailableError",
    "DeviceInvalidError",
    "DrainingError",
    "JitDisabledError",
    "JitError",
    "NotCachedError",
    "OverrideInvalidError",
    "PolicyError",
    "ProtocolError",
    "RequestError",
    "StoreError",
    "StoreFullError",
    "StoreUnwritableError",
    "ToolchainNotFoundError",
    "WaitTimedOutError",
    "error_class",
]


class JitError(RuntimeError):
    """Something kept a library from being handed out.

    Args:
        message: What happened, to what, and why: one sentence, no traceback.
        remedy: What to do next, or an empty string.
        reason: A short machine-readable word, such as ``absent`` or ``damaged`` for a READONLY miss.
        key: The cache key in hex, where it was known.
        log_path: The compiler's log on the daemon's host, where there is one.
        log_tail: The last lines of that log.
    """

    kind: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        reason: str = "",
        key: str = "",
        log_path: str = "",
        log_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.reason = reason
        self.key = key
        self.log_path = log_path
        self.log_tail = log_tail

    def __str__(self) -> str:
        parts = [self.message]
        if self.remedy:
            parts.append(self.remedy)
        if self.log_path:
            parts.append(f"Compiler log: {self.log_path}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.facts()))

    def facts(self) -> dict[str, str]:
        """The error's fields besides its message, as they travel on the wire."""
        return {
            "remedy": self.remedy,
            "reason": self.reason,
            "key": self.key,
            "log_path": self.log_path,
            "log_tail": self.log_tail,
        }


class RequestError(JitError, ValueError):
    """The request itself can't be answered, whatever the cache holds."""

    kind = "bad-request"


class ConfigNotFoundError(RequestError, FileNotFoundError):
    """The model path holds no readable ``mlc-chat-config.json``."""

    kind = "config-not-found"

    # OSError.__str__ would print errno fields that we don't set.
    __str__ = JitError.__str__


class ConfigInvalidError(RequestError):
    """``mlc-chat-config.json`` is not JSON, lacks a field, or names a model that the toolchain does not know."""

    kind = "config-invalid"


class OverrideInvalidError(RequestError):
    """An override, the optimisation level or the system library prefix is unknown or has a bad value."""

    kind = "override-invalid"


class DeviceInvalidError(RequestError):
    """The device text names nothing that the toolchain can compile for."""

    kind = "device-invalid"


class PolicyError(JitError):
    """The JIT policy forbids what was asked."""

    kind = "policy"


class JitDisabledError(PolicyError):
    """``MLC_JIT_POLICY=OFF``."""

    kind = "disabled"


class NotCachedError(PolicyError):
    """``MLC_JIT_POLICY=READONLY`` and no usable entry; ``reason`` is ``absent`` or ``damaged``."""

    kind = "not-cached"


class ToolchainNotFoundError(JitError):
    """The interpreter that was named can import no compiler."""

    kind = "toolchain-not-found"


class CompileError(JitError):
    """The compiler said no: ``message`` carries its root cause, ``log_tail`` its last lines."""

    kind = "compile-failed"


class CompileTimedOutError(CompileError):
    """The compile ran, or was silent, for longer than its limit and was ended."""

    kind = "compile-timed-out"


class CompileOutOfMemoryError(CompileError):
    """The compile outgrew its memory limit."""

    kind = "compile-out-of-memory"


class CompileKilledError(CompileError):
    """The compiler was ended by a signal that mlc-jitd did not send."""

    kind = "compile-killed"


class CompileCancelledError(CompileError):
    """The compile was cancelled by name."""

    kind = "compile-cancelled"


class StoreError(JitError):
    """The cache folder can't be used."""

    kind = "store"


class StoreFullError(StoreError):
    """There is no room for the artifact on the cache's file system."""

    kind = "store-full"


class StoreUnwritableError(StoreError):
    """The cache folder can't be made or written, or others may write to it."""

    kind = "store-unwritable"


class WaitTimedOutError(JitError, TimeoutError):
    """The caller's own time limit for a call is over; a compile that has begun goes on."""

    kind = "wait-timed-out"

    # OSError.__str__ would print errno fields that we don't set.
    __str__ = JitError.__str__


class DaemonError(JitError):
    """The daemon could not be asked. ``jit()`` falls back before it lets one of these out."""

    kind = "daemon"


class DaemonUnavailableError(DaemonError):
    """No daemon answered and none could be started."""

    kind = "daemon-unavailable"


class DrainingError(DaemonError):
    """The daemon is stopping or being replaced: ask again."""

    kind = "draining"


class BusyError(DaemonError):
    """The daemon's queue is full."""

    kind = "busy"


class AccessRefusedError(DaemonError):
    """The daemon, its socket or its folder belongs to another user."""

    kind = "access-refused"


class ProtocolError(DaemonError):
    """A message broke the wire protocol."""

    kind = "protocol"


def _rebuild(cls: type[JitError], message: str, facts: dict[str, str]) -> JitError:
    return cls(message, **facts)


def _classes(root: type[JitError]) -> dict[str, type[JitError]]:
    found = {root.kind: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found


_BY_KIND = _classes(JitError)


def error_class(kind: str) -> type[JitError]:
    """The class for a kind read from the wire; an unknown kind, of a newer daemon, is a plain ``JitError``."""
    return _BY_KIND.get(kind, JitError)
