"""Every message of the wire protocol, in one place; docs/protocol.md is its document.

A message is one ZeroMQ frame that holds one msgpack map: ``verb``, ``id``, and the fields of the class that the verb
names. Each class is a frozen value. What does not belong here: sockets, retries, meaning.

    frames  numbers, words, bytes   core       asking for a library
    base    what all share          admin      looking after a daemon and its cache
    codec   messages as bytes       explained  why a request is a hit or none
                                    reports    what a status and a listing are made of

Each is loaded when a name of it is first asked for: a hit needs ``frames`` alone.

Compatibility: fields may be added with a default, and a reader ignores fields that it does not know. A field is never
removed, renamed or given another meaning within one ``PROTOCOL`` number. Fields that were added (``LATER``) are left
out where they have their default, so that the bytes of a message that does without them are what they always were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlc_jit.messages.admin import (
        Cancel,
        Cancelled,
        Event,
        Keep,
        Kept,
        Listing,
        ListRequest,
        Records,
        RecordsRequest,
        Status,
        StatusRequest,
        Stopping,
        StopRequest,
        Top,
        TopRequest,
        WatchRequest,
    )
    from mlc_jit.messages.base import (
        LATER,
        Message,
    )
    from mlc_jit.messages.codec import (
        REPLIES,
        REQUESTS,
        InvalidMessageError,
        Table,
        UnknownVerbError,
        decode,
        encode,
    )
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
    from mlc_jit.messages.explained import (
        DifferenceReport,
        Explain,
        Explained,
        NearReport,
        PartReport,
        UpstreamReport,
    )
    from mlc_jit.messages.frames import (
        FEATURES,
        HEARTBEAT_SECONDS,
        MAX_LOG_TAIL_BYTES,
        MAX_MESSAGE_BYTES,
        PROTOCOL,
        SILENCE_SECONDS,
        Policy,
        Source,
        ToolchainChoice,
        cut,
        id_of,
        paste,
    )
    from mlc_jit.messages.reports import (
        CacheReport,
        EntryReport,
        FolderReport,
        HostReport,
        JobReport,
        LayerReport,
        OutcomeReport,
        RemoteReport,
    )

__all__ = [
    "FEATURES",
    "HEARTBEAT_SECONDS",
    "LATER",
    "MAX_LOG_TAIL_BYTES",
    "MAX_MESSAGE_BYTES",
    "PROTOCOL",
    "REPLIES",
    "REQUESTS",
    "SILENCE_SECONDS",
    "CacheReport",
    "Cancel",
    "Cancelled",
    "DifferenceReport",
    "EntryReport",
    "Event",
    "Explain",
    "Explained",
    "Failure",
    "FolderReport",
    "Heartbeat",
    "Hello",
    "HostReport",
    "InvalidMessageError",
    "JitRequest",
    "JobReport",
    "Keep",
    "Kept",
    "LayerReport",
    "Leave",
    "ListRequest",
    "Listing",
    "Message",
    "NearReport",
    "OutcomeReport",
    "PartReport",
    "Policy",
    "Progress",
    "Records",
    "RecordsRequest",
    "RemoteReport",
    "Result",
    "Source",
    "Status",
    "StatusRequest",
    "StopRequest",
    "Stopping",
    "Table",
    "ToolchainChoice",
    "Top",
    "TopRequest",
    "UnknownVerbError",
    "Unsupported",
    "UpstreamReport",
    "WatchRequest",
    "Welcome",
    "cut",
    "decode",
    "encode",
    "id_of",
    "paste",
]


_ROOMS = {
    "frames": (
        "FEATURES", "HEARTBEAT_SECONDS", "MAX_LOG_TAIL_BYTES", "MAX_MESSAGE_BYTES", "PROTOCOL", "Policy",
        "SILENCE_SECONDS", "Source", "ToolchainChoice", "cut", "id_of", "paste",
    ),
    "base": ("LATER", "Message"),
    "codec": ("InvalidMessageError", "REPLIES", "REQUESTS", "Table", "UnknownVerbError", "decode", "encode"),
    "core": (
        "Failure", "Heartbeat", "Hello", "JitRequest", "Leave", "Progress", "Result", "Unsupported", "Welcome",
    ),
    "explained": ("DifferenceReport", "Explain", "Explained", "NearReport", "PartReport", "UpstreamReport"),
    "reports": (
        "CacheReport", "EntryReport", "FolderReport", "HostReport", "JobReport",
        "LayerReport", "OutcomeReport", "RemoteReport",
    ),
}  # fmt: skip
_ROOM = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - whoever needs the rooms alone does without

    value = getattr(importlib.import_module(f"{__name__}.{_ROOM.get(name, 'admin')}"), name)
    globals()[name] = value
    return value
