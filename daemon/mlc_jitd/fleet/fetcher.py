"""Fetches without anybody's thread waiting: each key once at a time, and whoever asks is called when it is over.

A few threads of its own, so that a bucket that is slow holds up no look-up of what is here. What does not belong here:
how a library is fetched (`tier`).
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlc_jitd.elsewhere import Fetched, unheard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.elsewhere import Arriving, Elsewhere
    from mlc_jitd.identity import Identity

logger = logging.getLogger(__name__)

THREADS = 8


class Fetcher:
    """See the module's docstring. From any thread.

    Args:
        elsewhere: Fetches.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[Callable[[Fetched], None], Callable[[Arriving], None]]]] = {}

    def fetch(
        self, identity: Identity, done: Callable[[Fetched], None], told: Callable[[Arriving], None] = unheard
    ) -> None:
        """Fetch a library.

        Args:
            identity: Which.
            done: Gets what came of it, in a thread of this room.
            told: How far it is, likewise; quick.
        """
        with self._lock:
            waiting = self._waiting.setdefault(identity.key, [])
            waiting.append((done, told))
            if len(waiting) > 1:
                return
        try:
            self._threads.submit(self._run, identity)
        except RuntimeError:  # the daemon ends
            self._tell(identity.key, Fetched())

    def close(self) -> None:
        """Begin no more; what runs is not waited for: its bounds end it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, identity: Identity) -> None:
        fetched = Fetched()
        try:
            fetched = self._elsewhere.fetch(identity, told=lambda arriving: self._pass_on(identity.key, arriving))
        except Exception:
            logger.exception("a library could not be fetched")
        finally:
            self._tell(identity.key, fetched)

    def _pass_on(self, key: str, arriving: Arriving) -> None:
        with self._lock:
            waiting = list(self._waiting[key])
        for _, told in waiting:
            told(arriving)

    def _tell(self, key: str, fetched: Fetched) -> None:
        with self._lock:
            waiting = self._waiting.pop(key)
        for done, _ in waiting:
            done(fetched)
