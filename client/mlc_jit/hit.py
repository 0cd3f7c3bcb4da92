"""The short way to a library that is there: one frame to the daemon, one back, and nothing imported for anything else.

Forty processes that boot at once all come this way, and each pays for every module that it loads. So what is not a
plain hit, whatever the reason, is left to ``asking`` as it stands, with what was said so far. What does not belong
here: errors, waiting, starting a daemon, doing without one.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mlc_jit import channel as wire
from mlc_jit import doorstep, settings
from mlc_jit.held import is_held
from mlc_jit.messages.frames import FIRST_PROBE_SECONDS, PROTOCOL, cut, pack, paste, unpack
from mlc_jit.reach import private
from mlc_jit.request import exactly, quick_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlc_jit.request import Question

LOOK_SECONDS = 0.005
"""For how long one look at what changes by other people's doing counts: the daemon's socket, the library's visibility,
who watches standard error."""

KEPT = 64
"""Hits kept for each connection, at some 10 KB each."""


class Hit:
    """A library that was there.

    Attributes:
        path: Its absolute path; this process can see it.
        system_lib_prefix: What ``JITResult`` carries.
    """

    __slots__ = ("path", "system_lib_prefix")

    def __init__(self, path: str, system_lib_prefix: str | None) -> None:
        self.path = path
        self.system_lib_prefix = system_lib_prefix

    source = "hit"


class Begun:
    """A question that was asked here and had another answer than a plain hit, or none yet.

    Attributes:
        question: What was asked.
        channel: Over which connection.
        id: Under which id.
        frame: What was answered, if anything was.
    """

    __slots__ = ("channel", "frame", "id", "question")

    def __init__(self, question: Question, channel: wire.Channel, id_: int, frame: bytes | None) -> None:
        self.question = question
        self.channel = channel
        self.id = id_
        self.frame = frame


class _Kept:
    """A call that was a hit, and all that has to be as it was for its answer to be this one."""

    __slots__ = ("after", "before", "given", "hit", "looked", "question", "settings", "stderr")

    def __init__(self, given: str, question: Question, hit: Hit, frame: bytes) -> None:
        parts = cut(frame)
        assert parts is not None, "it was read"
        self.before, _, self.after = parts
        self.given = given
        self.question = question
        self.hit = hit
        self.settings = settings.current()
        self.stderr = sys.stderr
        self.looked = time.monotonic()


def again(
    model_path: Path | str, overrides: Mapping[str, Any] | None, device: Any, system_lib_prefix: str | None
) -> Hit | Begun | None:
    """Ask over this thread's connection what was asked before, by the same bytes.

    Equal arguments, the same environment and the same config make the same question; the daemon answers each time.

    Returns:
        The library; or what was asked without getting the same answer; or ``None`` where nothing was asked.
    """
    channel = wire.the_threads()
    if channel is None or not channel.kept:
        return None
    try:
        kept: _Kept | None = channel.kept.get((model_path, device, system_lib_prefix))
    except TypeError:
        return None
    if kept is None or (exactly(overrides) if overrides else "") != kept.given:
        return None
    question = kept.question
    if kept.settings is not settings.current() or question.config != quick_config(model_path):
        return None
    now = time.monotonic()
    if now - kept.looked > LOOK_SECONDS:
        if not _still(channel, kept):
            return None
        kept.looked = now
    id_ = wire.next_id()
    frame = _exchange(channel, question, id_)
    if frame == paste(kept.before, id_, kept.after):
        return kept.hit
    del channel.kept[model_path, device, system_lib_prefix]
    return Begun(question, channel, id_, frame)


def _still(channel: wire.Channel, kept: _Kept) -> bool:
    """Whether the connection leads to the daemon that is to be asked, and its library can be seen from here."""
    door = doorstep.own()
    return (
        door is not None
        and door.socket == channel.place
        and channel.fresh()
        and sys.stderr is kept.stderr
        and os.path.exists(kept.hit.path)  # noqa: PTH110 - on the hit path
    )


def ask(
    question: Question,
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
) -> Hit | Begun | None:
    """Ask a question over this thread's connection, made if a daemon serves; a hit is kept for ``again``.

    Returns:
        The library; or what was asked and had another answer; or ``None`` where nothing was asked.
    """
    channel = _connection()
    if channel is None:
        return None
    id_ = wire.next_id()
    frame = _exchange(channel, question, id_)
    hit = None if frame is None else _read(frame, id_)
    if hit is None:
        return Begun(question, channel, id_, frame)
    assert frame is not None, "it was read"
    given = exactly(overrides)
    if given is not None and type(device) is str and os.fspath(model_path).startswith("/"):
        if len(channel.kept) >= KEPT:
            channel.kept.clear()
        channel.kept[model_path, device, system_lib_prefix] = _Kept(given, question, hit, frame)
    return hit


def _connection() -> wire.Channel | None:
    """This thread's connection to its user's own daemon, if one serves."""
    door = doorstep.own()
    if door is None:
        return None
    channel = wire.the_threads()
    if channel is not None:
        return wire.current(door.socket) if channel.place == door.socket else None
    if door.named or not private(door.runtime) or not is_held(f"{door.stem}.lock"):
        return None
    return wire.connect(door.socket) if os.path.exists(door.socket) else None  # noqa: PTH110 - on the hit path


def _exchange(channel: wire.Channel, question: Question, id_: int) -> bytes | None:
    try:
        frame = channel.exchange(question.frame(id_))
        if frame is not None and frame[1:14] == _WELCOME and _same_protocol(frame):
            frame = channel.take(FIRST_PROBE_SECONDS)
    except BaseException:
        channel.post(pack({"verb": "leave", "id": id_, "cancel": False}))
        raise
    return frame


_WELCOME = b"\xa4verb\xa7welcome"


def _same_protocol(frame: bytes) -> bool:
    try:
        return bool(unpack(frame).get("protocol") == PROTOCOL)
    except Exception:  # noqa: BLE001 - whatever it is, it is read with errors that explain themselves
        return False


def _read(frame: bytes, id_: int) -> Hit | None:
    """A frame as a plain hit: one of a library that this process can see, and of which nothing more is to be said."""
    try:
        fields = unpack(frame)
        if fields["verb"] != "result" or fields["id"] != id_ or fields["source"] != "hit" or fields.get("warning"):
            return None
        path, prefix = fields["path"], fields["system_lib_prefix"]
        return Hit(path, prefix) if os.path.exists(path) else None  # noqa: PTH110 - on the hit path
    except Exception:  # noqa: BLE001 - as above
        return None
