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

from mlc_jit.messages import JitRequest, Result, cut, encode, paste

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

LOOK_SECONDS = 0.005
"""For how long one look at a toolchain counts. A process that began after a change of it can't ask sooner: to start an
interpreter and connect takes longer than this."""


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
            return True
        if not self._identity_unchanged(identity):
            return False
        if len(self._looked) > REMEMBERED:
            self._looked.clear()
        self._looked[id(identity)] = (identity, now)
        return True

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


@dataclass(frozen=True, slots=True)
class _Framed:
    """A question and its answer as they travel, each without its id."""

    question: tuple[int, bytes, bytes]
    answer: Answer
    before: bytes
    after: bytes


class Frames:
    """Remembered frames: a question whose very bytes were decoded once is answered without decoding it again.

    The bytes hold everything that a request says, its policy too, but for the id; and each uid has its own. What may be
    handed out is ``Answers``'s to say, each time. Used by one thread.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._known: OrderedDict[tuple[int, bytes, bytes], _Framed] = OrderedDict()
        self._last: dict[bytes, _Framed] = {}
        self._epoch = answers.epoch

    def reply(self, connection: bytes, uid: int, pid: int, frame: bytes) -> tuple[int, bytes] | None:
        """The id and the bytes of the reply to a frame, if it is known and the answer still true."""
        parts = cut(frame)
        if parts is None or parts[1] > MOST_ID:
            return None
        if self._epoch != self._answers.epoch:
            self._epoch = self._answers.epoch
            self._known.clear()
            self._last.clear()
        before, id_, after = parts
        known = self._last.get(connection)
        if known is None or known.question[2] != after or known.question[1] != before or known.question[0] != uid:
            known = self._known.get((uid, before, after))  # hashes it, which takes longer than to compare
            if known is None:
                return None
            if len(self._last) >= CONNECTIONS:
                self._last.clear()
            self._last[connection] = known
        if not self._answers.holds(connection, pid, known.answer):
            self._known.pop(known.question, None)
            self._last.clear()
            return None
        return id_, paste(known.before, id_, known.after)

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
            self._last = {name: each for name, each in self._last.items() if each is not oldest}


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
