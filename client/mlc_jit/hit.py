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
from mlc_jit import doorstep, environment
from mlc_jit.held import is_held
from mlc_jit.messages.frames import FIRST_PROBE_SECONDS, PROTOCOL, cut, pack, packed_id, unpack
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


class Call:
    """A call that was a hit over this connection, and what has to be as it was for the answer to be the same.

    It does not name its connection, which holds it: that one ends with its thread, when nobody names it any more.
    """

    __slots__ = (
        "after", "before", "environment", "executable", "given", "hit", "looked", "name", "question",
        "stderr",
    )  # fmt: skip

    def __init__(self, name: tuple[Any, ...], given: str, begun: Begun, hit: Hit) -> None:
        assert begun.frame is not None, "it was read"
        parts = cut(begun.frame)
        assert parts is not None, "it was read"
        self.before, _, self.after = parts
        self.name = name
        self.given = given
        self.question = begun.question
        self.hit = hit
        self.environment = environment.state()
        self.executable = sys.executable
        self.stderr = sys.stderr
        self.looked = time.monotonic()

    def still(self, channel: wire.Channel) -> bool:
        """Whether the same daemon is to be asked in the same way, and its library can be seen from here."""
        door = doorstep.own()
        return (
            door is not None
            and door.socket == channel.place
            and channel.fresh()
            and sys.stderr is self.stderr
            and sys.executable is self.executable
            and os.path.exists(self.hit.path)  # noqa: PTH110 - on the hit path
        )

    def ask(self) -> Hit | Begun:
        """Ask once more: the daemon answers each time, and the same answer is known by its bytes."""
        channel = wire.the_threads()
        assert channel is not None, "it holds this"
        id_ = wire.next_id()
        packed = packed_id(id_)
        question = self.question
        frame = _exchange(channel, question.before + packed + question.after, id_)
        if frame == self.before + packed + self.after or (
            frame is not None and cut(frame) == (self.before, id_, self.after)  # ids have more than one form
        ):
            return self.hit
        channel.kept.pop(self.name, None)
        return Begun(question, channel, id_, frame)


def recall(
    model_path: Path | str, overrides: Mapping[str, Any] | None, device: Any, system_lib_prefix: str | None
) -> Call | None:
    """The same call as one that was a hit over this thread's connection: equal arguments, environment and config."""
    channel = wire.the_threads()
    if channel is None or not channel.kept:
        return None
    try:
        call: Call | None = channel.kept.get((model_path, device, system_lib_prefix))
    except TypeError:
        return None
    if call is None or (exactly(overrides) if overrides else "") != call.given:
        return None
    if call.environment is not environment.state() or call.question.config != quick_config(model_path):
        return None
    now = time.monotonic()
    if now - call.looked > LOOK_SECONDS:
        if not call.still(channel):
            return None
        call.looked = now
    return call


def ask(
    question: Question,
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
) -> Hit | Begun | None:
    """Ask a question over this thread's connection, made if a daemon serves; a hit is kept for ``recall``.

    Returns:
        The library; or what was asked and had another answer; or ``None`` where nothing was asked.
    """
    channel = _connection()
    if channel is None:
        return None
    id_ = wire.next_id()
    begun = Begun(question, channel, id_, _exchange(channel, question.frame(id_), id_))
    hit = _read(begun)
    if hit is None:
        return begun
    given = exactly(overrides)
    if given is not None and type(device) is str and os.fspath(model_path).startswith("/"):
        if len(channel.kept) >= KEPT:
            channel.kept.clear()
        name = (model_path, device, system_lib_prefix)
        channel.kept[name] = Call(name, given, begun, hit)
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


def _exchange(channel: wire.Channel, asked: bytes, id_: int) -> bytes | None:
    try:
        frame = channel.exchange(asked)
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


def _read(begun: Begun) -> Hit | None:
    """A plain hit: a library that this process can see, and of which nothing more is to be said. Else ``None``."""
    if begun.frame is None:
        return None
    try:
        fields = unpack(begun.frame)
        if (fields["verb"], fields["id"], fields["source"]) != ("result", begun.id, "hit") or fields.get("warning"):
            return None
        path = fields["path"]
        return Hit(path, fields["system_lib_prefix"]) if os.path.exists(path) else None  # noqa: PTH110 - as above
    except Exception:  # noqa: BLE001 - as above
        return None
