"""Remembered answers: the hit path. A request seen before is answered by comparing it and asking stat, nothing else.

Everything here is called in the server's thread. A remembered answer is given only while the artifact, its manifest
and the toolchain's files are what they were; anything else is a miss here and goes the long way.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit.messages import JitRequest, Result, cut, encode
from mlc_jit.messages.frames import WIDE_ID, WIDE_ID_BYTES, packed_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry

REMEMBERED = 1024
"""Questions kept, at some 20 KB each; a host that asks more different ones pays half a millisecond for the others."""

FRAMES = 256
"""Frames kept, at some 10 KB each; who asks more different ones pays for the decoding of the others."""

CONNECTIONS = 4096
"""Connections of which it is kept what they asked last."""

MOST_ID = (1 << 63) - 1
MOST_FIRST_BYTE = 0x7F
"""Of an id in eight bytes."""

LOOK_SECONDS = 0.005
"""For how long one look at a toolchain counts. A process that began after a change of it can't ask sooner: to start an
interpreter and connect takes longer than this."""


_Question = tuple[int, bytes, bytes]
"""Uid, and the bytes before and after the id."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An entry that was handed out, and the identity that it was found under."""

    identity: Identity
    entry: Entry


class Answers:
    """A bounded memory of answers, least recently used first out.

    Args:
        entry_unchanged: Whether an entry may be handed out again; stat only.
        identity_unchanged: Whether the toolchain is what it was; stat only.
        lend: Told who, by connection and pid, is about to get an entry, before it is looked at.
    """

    def __init__(
        self,
        entry_unchanged: Callable[[Entry], bool],
        identity_unchanged: Callable[[Identity], bool],
        lend: Callable[[bytes, int, Entry], None],
    ) -> None:
        self._lend = lend
        self._entry_unchanged = entry_unchanged
        self._identity_unchanged = identity_unchanged
        self._looked: dict[int, tuple[Identity, float]] = {}
        self._latest: tuple[Identity, float] | None = None
        self._known: OrderedDict[Hashable, Answer] = OrderedDict()
        self._lock = threading.Lock()
        self.epoch = 0
        """Grows when an answer is dropped or replaced for other reasons than what a look at it tells."""

    def recall(self, connection: bytes, pid: int, request: JitRequest) -> Result | None:
        """The answer to a request that may be answered from the cache, if it is known and still true."""
        answer = self.known(request)
        if answer is None:
            return None
        question = _question(request)
        if not self.holds(connection, pid, answer):
            with self._lock:
                self._known.pop(question, None)
            return None
        with self._lock:
            if question in self._known:
                self._known.move_to_end(question)
        return result(request.id, answer.identity, answer.entry)

    def known(self, request: JitRequest) -> Answer | None:
        """What would be handed out, if it is known and the policy allows it; not looked at."""
        return self._known.get(_question(request)) if request.policy in ("ON", "READONLY") else None

    def holds(self, connection: bytes, pid: int, answer: Answer) -> bool:
        """Lend an answer's entry to who asked, and look whether the answer is still true."""
        self._lend(connection, pid, answer.entry)  # first: a collector that came before has taken the manifest away
        return self._entry_unchanged(answer.entry) and self._same_toolchain(answer.identity)

    def _same_toolchain(self, identity: Identity) -> bool:
        now = time.monotonic()
        looked = self._looked.get(id(identity))
        if looked is not None and looked[0] is identity and now - looked[1] < LOOK_SECONDS:
            self._latest = looked
            return True
        return self._look_at(identity, now)

    def _look_at(self, identity: Identity, now: float) -> bool:
        if not self._identity_unchanged(identity):
            self._looked.pop(id(identity), None)
            return False
        if len(self._looked) > REMEMBERED:
            self._looked.clear()
        self._looked[id(identity)] = self._latest = (identity, now)
        return True

    def rest(self) -> None:
        """Look at the toolchain of the last answer before its last look is too old, while nobody waits for that."""
        latest, now = self._latest, time.monotonic()
        if latest is not None and now - latest[1] > LOOK_SECONDS / 2:
            self._latest = None
            if now - latest[1] < LOOK_SECONDS:
                self._look_at(latest[0], now)

    def remember(self, request: JitRequest, identity: Identity, entry: Entry) -> None:
        """Keep the answer to a request; from any thread."""
        question = _question(request)
        with self._lock:
            if question in self._known:
                self.epoch += 1
            self._known[question] = Answer(identity, entry)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def forget(self, keys: Collection[str]) -> None:
        """Drop the answers with these keys; from any thread."""
        with self._lock:
            self.epoch += 1
            for question in [each for each, answer in self._known.items() if answer.entry.key in keys]:
                del self._known[question]


class _Framed:
    """A question and its answer as they travel, each without its id."""

    __slots__ = ("after", "answer", "asked_after", "asked_before", "before", "looked", "uid")

    def __init__(self, question: _Question, answer: Answer, before: bytes, after: bytes) -> None:
        self.uid, self.asked_before, self.asked_after = question
        self.answer = answer
        self.before = before
        self.after = after
        self.looked = -1
        """The turn in which it was last seen to be true."""

    @property
    def question(self) -> _Question:
        """What it is known by."""
        return self.uid, self.asked_before, self.asked_after


class Frames:
    """Remembered frames: a question whose very bytes were decoded once is answered without decoding it again.

    The bytes hold everything that a request says, its policy too, but for the id; and each uid has its own. What may be
    handed out is ``Answers``'s to say, after the question was asked: whoever reads several questions before he answers
    the first says so (``turn``), and one look then counts for all of them that ask the same. Used by one thread.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._known: OrderedDict[_Question, _Framed] = OrderedDict()
        self._last: dict[bytes, tuple[_Framed, int]] = {}
        self._epoch = answers.epoch
        self._turn = 0

    def turn(self) -> None:
        """Whatever is asked until the next turn has been asked already."""
        self._turn += 1

    def reply(self, connection: bytes, uid: int, pid: int, frame: bytes) -> bytes | None:
        """The bytes of the reply to a frame, if it is known and the answer still true."""
        if self._epoch != self._answers.epoch:
            self._epoch = self._answers.epoch
            self._known.clear()
            self._last.clear()
        last = self._last.get(connection)
        if last is not None:
            # What was asked last is compared where it lies: to cut out and hash 3 KB takes longer than all the rest.
            known = last[0]
            id_at, after = len(known.asked_before), known.asked_after
            if frame.startswith(known.asked_before) and frame.endswith(after) and known.uid == uid:
                packed = frame[id_at : len(frame) - len(after)]
                if len(packed) == WIDE_ID_BYTES and packed[0] == WIDE_ID and packed[1] <= MOST_FIRST_BYTE:
                    if last[1] == pid and known.looked == self._turn:
                        return known.before + packed + known.after
                    return self._looked_up(connection, pid, known, packed)
        parts = cut(frame)
        if parts is None or parts[1] > MOST_ID:
            return None
        before, id_, after = parts
        found = self._known.get((uid, before, after))
        return None if found is None else self._looked_up(connection, pid, found, packed_id(id_))

    def _looked_up(self, connection: bytes, pid: int, known: _Framed, packed: bytes) -> bytes | None:
        if not self._answers.holds(connection, pid, known.answer):
            self._known.pop(known.question, None)
            self._last.clear()
            return None
        known.looked = self._turn
        last = self._last.get(connection)
        if last is None or last[0] is not known or last[1] != pid:
            if len(self._last) >= CONNECTIONS:
                self._last.clear()
            self._last[connection] = (known, pid)  # it has a lease from now on
        return known.before + packed + known.after

    def learn(self, uid: int, frame: bytes, request: JitRequest) -> None:
        """Remember a frame that was decoded, and answered from ``Answers``."""
        answer = self._answers.known(request)
        parts = cut(frame)
        if answer is None or parts is None or parts[1] != request.id:
            return
        reply = cut(encode(result(0, answer.identity, answer.entry)))
        assert reply is not None, "encode writes verb and id first"
        question = (uid, parts[0], parts[2])
        self._known[question] = _Framed(question, answer, reply[0], reply[2])
        if len(self._known) > FRAMES:
            _, oldest = self._known.popitem(last=False)
            self._last = {name: each for name, each in self._last.items() if each[0] is not oldest}


def result(id_: int, identity: Identity, entry: Entry) -> Result:
    """The reply that hands out an entry, as a hit."""
    manifest = entry.manifest
    return Result(
        id=id_,
        path=entry.path,
        key=entry.key,
        system_lib_prefix=identity.result_prefix,
        seconds=manifest.compile.seconds,
        toolchain=manifest.toolchain.name,
        degraded=manifest.degraded,
    )


def _question(request: JitRequest) -> Hashable:
    """What two requests share that have the same answer; those of two folders are apart, so that each is heard of.

    Text of the overrides: 1, 1.0 and True are equal to a dict.
    """
    return (
        request.config,
        request.model_path,
        request.device,
        request.opt,
        request.system_lib_prefix,
        request.python,
        request.toolchain,
        repr(request.overrides),
        tuple(request.environment.items()),
    )
