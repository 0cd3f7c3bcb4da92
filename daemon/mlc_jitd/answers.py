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

from mlc_jit.messages import JitRequest, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry

REMEMBERED = 1024
"""Questions kept, at some 20 KB each; a host that asks more different ones pays half a millisecond for the others."""

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

    def recall(self, connection: bytes, pid: int, request: JitRequest) -> Result | None:
        """The answer to a request that may be answered from the cache, if it is known and still true."""
        if request.policy not in ("ON", "READONLY"):
            return None
        question = _question(request)
        answer = self._known.get(question)
        if answer is None:
            return None
        self._lend(
            connection, pid, answer.entry
        )  # before the look: a collector that came first has taken the manifest away
        if not (self._entry_unchanged(answer.entry) and self._same_toolchain(answer.identity)):
            with self._lock:
                self._known.pop(question, None)
            return None
        with self._lock:
            if question in self._known:
                self._known.move_to_end(question)
        return result(request.id, answer.identity, answer.entry)

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
        with self._lock:
            self._known[_question(request)] = Answer(identity, entry)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def forget(self, keys: Collection[str]) -> None:
        """Drop the answers with these keys; from any thread."""
        with self._lock:
            for question in [each for each, answer in self._known.items() if answer.entry.key in keys]:
                del self._known[question]


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
