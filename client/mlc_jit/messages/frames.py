"""What a frame is, without the typed messages: the protocol's numbers and words, its bytes, its id.

Typed messages are a third of what a process would pay from its start to a library that is there: a hit does without.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgpack

PROTOCOL = 1

MAX_MESSAGE_BYTES = 1 << 20
"""A longer message is refused by the socket itself (``ZMQ_MAXMSGSIZE``); a config is 2 to 5 KB."""

MAX_LOG_TAIL_BYTES = 16 << 10
"""How much of a compiler's log travels in one ``Failure``."""

HEARTBEAT_SECONDS = 2.0
"""How often the daemon speaks to a client that waits, whatever it is doing."""

SILENCE_SECONDS = 10.0
"""A client that has heard nothing for this long gives the daemon up (and does not kill it)."""

FIRST_PROBE_SECONDS = 0.25
"""Silence after which a client takes a first look at whether anybody listens at all."""

Policy = Literal["ON", "OFF", "REDO", "READONLY"]
ToolchainChoice = Literal["auto", "mlc_llm", "tvm"]
Source = Literal["hit", "compiled", "joined"]

FEATURES: tuple[str, ...] = (
    "jit", "progress", "cancel", "status", "list", "stop", "explain", "watch", "keep", "records", "top",
)  # fmt: skip
"""What this version of daemon and client can do, by name."""


def pack(fields: dict[str, Any]) -> bytes:
    """The bytes of a frame that holds these fields, ``verb`` and ``id`` first."""
    packed: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    return packed


def unpack(payload: bytes | memoryview) -> Any:
    """What a frame holds, unchecked; whatever msgpack raises."""
    return msgpack.unpackb(payload, max_map_len=4096, max_array_len=65536, unicode_errors="surrogateescape")


_ID = b"\xa2id"
_WIDE_ID = struct.Struct(">BQ")
WIDE_ID = 0xCF
WIDE_ID_BYTES = 9
"""How ids above 127 begin in our frames, and how long they are."""

_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, WIDE_ID: 8}
_MOST_FIXINT = 0x7F
_HEAD_BYTES = 64
"""Where ``verb`` and ``id`` stand in a frame of ours: at its beginning, in this order."""


def cut(frame: bytes) -> tuple[bytes, int, bytes] | None:
    """A frame as what stands before its id, the id, and the rest; the two others together say all but the id.

    Only for frames that begin with ``verb`` and ``id``, as ``encode`` writes them: ``None`` for all others. Nothing is
    checked beyond that, so a frame is known by this only if the same bytes were decoded once.
    """
    at = frame.find(_ID, 0, _HEAD_BYTES) + len(_ID)
    if at < len(_ID) or frame[1:6] != b"\xa4verb" or at >= len(frame):
        return None
    lead = frame[at]
    if lead <= _MOST_FIXINT:
        return frame[:at], lead, frame[at + 1 :]
    size = _UINT_BYTES.get(lead)
    if size is None:
        return None
    end = at + 1 + size
    return frame[:at], int.from_bytes(frame[at + 1 : end], "big"), frame[end:]


def paste(before: bytes, id_: int, after: bytes) -> bytes:
    """The frame that ``cut`` took apart, with another id."""
    return before + packed_id(id_) + after


def packed_id(id_: int) -> bytes:
    """An id as it stands in a frame."""
    return _WIDE_ID.pack(WIDE_ID, id_) if id_ > _MOST_FIXINT else bytes((id_,))


def id_of(frame: bytes) -> int:
    """The id of a frame of ours; 0 where it has none at its place."""
    parts = cut(frame)
    return 0 if parts is None else parts[1]
