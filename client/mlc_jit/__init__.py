"""mlc-jitd's client: what serving processes import.

    from mlc_jit import jit

takes the place of ``from mlc_llm.interface.jit import jit``. A compiler is never imported here; pyzmq, msgpack and
what else a call needs come with the first look at a name that needs them, so that a program which only might compile
starts as fast as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlc_jit._version import __version__
from mlc_jit.errors import (
    AccessRefusedError,
    BusyError,
    CompileCancelledError,
    CompileError,
    CompileKilledError,
    CompileOutOfMemoryError,
    CompileTimedOutError,
    ConfigInvalidError,
    ConfigNotFoundError,
    DaemonError,
    DaemonUnavailableError,
    DeviceInvalidError,
    DrainingError,
    JitDisabledError,
    JitError,
    NotCachedError,
    OverrideInvalidError,
    PolicyError,
    ProtocolError,
    RequestError,
    StoreError,
    StoreFullError,
    StoreUnwritableError,
    ToolchainNotFoundError,
    WaitTimedOutError,
)

if TYPE_CHECKING:
    from mlc_jit.api import JITResult, ajit, jit
    from mlc_jit.batch import JITCall, ajit_many, jit_many
    from mlc_jit.dropin import install, uninstall
    from mlc_jit.messages import Event, Progress
    from mlc_jit.watching import watch

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
    "Event",
    "JITCall",
    "JITResult",
    "JitDisabledError",
    "JitError",
    "NotCachedError",
    "OverrideInvalidError",
    "PolicyError",
    "Progress",
    "ProtocolError",
    "RequestError",
    "StoreError",
    "StoreFullError",
    "StoreUnwritableError",
    "ToolchainNotFoundError",
    "WaitTimedOutError",
    "__version__",
    "ajit",
    "ajit_many",
    "install",
    "jit",
    "jit_many",
    "uninstall",
    "watch",
]

_LATER = {
    "Event": "messages", "JITCall": "batch", "JITResult": "api", "Progress": "messages", "ajit": "api",
    "ajit_many": "batch", "install": "dropin", "jit": "api", "jit_many": "batch", "uninstall": "dropin",
    "watch": "watching",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - whoever only imports the package does without

    value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
