"""mlc-jitd's client: what serving processes import.

    from mlc_jit import jit

takes the place of ``from mlc_llm.interface.jit import jit``. Importing this costs little more than importing pyzmq and
msgpack; a compiler is never imported here.
"""

from __future__ import annotations

from mlc_jit._version import __version__
from mlc_jit.api import JITResult, ajit, jit
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
)
from mlc_jit.messages import Progress

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
    "__version__",
    "ajit",
    "jit",
]
