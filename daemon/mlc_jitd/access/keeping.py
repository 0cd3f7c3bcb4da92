"""``keep`` where many users share a daemon: entries are pinned by their keys, and no model folder is ever looked at."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError, NotCachedError, RequestError
from mlc_jitd.store import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.peers import Peer
    from mlc_jitd.work import Work


class Keeping:
    """Answers ``Keep``.

    Args:
        work: Looks up.
        by_key: Answers a ``Keep`` that names a key; slow.
        later: Runs something slow in a thread.
        reply: Sends a message to a peer.
    """

    def __init__(
        self,
        work: Work,
        by_key: Callable[[m.Keep, float], m.Kept],
        *,
        later: Callable[[Callable[[], None]], None],
        reply: Callable[[Peer, m.Message], None],
    ) -> None:
        self._work = work
        self._by_key = by_key
        self._later = later
        self._reply = reply

    def asked(self, peer: Peer, message: m.Keep) -> None:
        """Take one in; quick, from the server's thread."""

        def task() -> None:
            try:
                self._reply(peer, self._keep(message))
            except JitError as error:
                self._reply(peer, m.Failure.of(error, id=message.id))

        self._later(task)

    def _keep(self, message: m.Keep) -> m.Kept:
        if message.folder or message.keep == "prewarm":
            raise RequestError(
                "A daemon of many users looks at no model folder.",
                remedy="Pin and unpin entries by their keys (`mlc-jit list` shows them), and pre-warm by asking anew.",
                reason="system",
            )
        if message.ask is None:
            return self._by_key(message, time.time())
        found = self._work.look_up(message.ask)
        if not isinstance(found.answer, Found):
            raise NotCachedError(
                f"There is no usable library for {message.ask.model_path} that could be kept ({found.answer.reason}).",
                remedy="Compile it first: `mlc-jit compile`.",
                reason=found.answer.reason,
                key=found.identity.key,
            )
        return self._by_key(dataclasses.replace(message, ask=None, key=found.identity.key), time.time())
