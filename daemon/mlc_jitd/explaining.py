"""The verb ``explain`` of a running daemon: in threads of its own, since a compiler may have to be asked."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError
from mlc_jitd.reports import explained, internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.peers import Peer
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)

THREADS = 2
"""Explanations at a time. They wait for interpreters more than they work; requests have threads of their own."""


class Explaining:
    """Answers ``Explain``.

    Args:
        work: Knows.
        reply: Sends a message to a peer, from any thread.
    """

    def __init__(self, work: Work, reply: Callable[[Peer, m.Message], None]) -> None:
        self._work = work
        self._reply = reply
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="explain")

    def asked(self, peer: Peer, message: m.Explain) -> None:
        """Take a question in; quick, from the server's thread."""
        try:
            self._pool.submit(self._answer, peer, message)
        except RuntimeError as error:  # closed, or no thread to be had
            self._reply(peer, m.Failure.of(internal(error), id=message.id))

    def close(self) -> None:
        """Take nothing more in."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, peer: Peer, message: m.Explain) -> None:
        reply: m.Message
        try:
            found = self._work.explain(message.request)
            reply = explained(message.id, found, self._work.upstream.files, self._work.store.layer_of)
        except JitError as error:
            reply = m.Failure.of(error, id=message.id)
        except Exception as error:
            logger.exception("a request could not be explained")
            reply = m.Failure.of(internal(error), id=message.id)
        self._reply(peer, reply)
