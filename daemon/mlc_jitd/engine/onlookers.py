"""Rooms that follow what the engine does. Whatever goes wrong in one of them, the engine goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jit import messages as m
    from mlc_jit.errors import JitError
    from mlc_jitd.broker import Asker
    from mlc_jitd.engine.ledger import Asking, JobState
    from mlc_jitd.identity import Identity
    from mlc_jitd.peers import Peer
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.store import Entry
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.work import Built, LookUp

    Source = Literal["hit", "compiled", "joined", "stopgap", "refused"]

logger = logging.getLogger(__name__)


class Onlooker:
    """A room that follows what the engine does. Each method is called in the engine's thread, so it must be quick.

    Of hits that the server's thread answers by itself nobody is told.
    """

    def looked_up(self, peer: Peer, request: m.JitRequest, found: LookUp) -> None:
        """A request was looked up; the first time that it is asked, and whenever it is no remembered hit."""

    def answered(self, asking: Asking, reply: m.Result | m.Failure, source: Source) -> None:
        """A request got its answer; ``stopgap`` is upstream's own file."""

    def enqueued(self, key: str, state: JobState, reason: str, *, background: bool) -> None:
        """A job was made for a key; ``reason`` is why there is no library, or ``redo``."""

    def joined(self, key: str, asker: Asker, asking: Asking) -> None:
        """Somebody waits for the job of a key, first or later. Who does so may be told again."""

    def left(self, asker: Asker) -> None:
        """Somebody waits for nothing any more, if ever."""

    def started(self, key: str, grant: Grant) -> None:
        """A job was admitted."""

    def advanced(self, key: str, stage: Stage, now: float) -> None:
        """A job came to a stage, at ``now`` on the monotonic clock; the same one may be told with another detail."""

    def requeued(self, key: str, why: str, *, tried: bool) -> None:
        """A job that had started waits for its turn again; ``tried``: its first try ran out of memory."""

    def finished(self, key: str, end: Built | JitError | None) -> None:
        """A job is over: it came to a library, failed, or was taken out of the queue (``None``)."""

    def published(self, identity: Identity, entry: Entry) -> None:
        """A library was compiled here."""

    def gone(self, identity: bytes) -> None:
        """A connection that waited is no more."""


class Onlookers(list[Onlooker]):
    """All of them, in the order in which they are told."""

    def tell(self, what: Callable[[Onlooker], None]) -> None:
        """Tell each; what one of them raises is logged."""
        for each in self:
            try:
                what(each)
            except Exception:
                logger.exception("%s could not follow", type(each).__name__)
