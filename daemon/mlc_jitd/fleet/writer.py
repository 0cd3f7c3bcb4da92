"""Puts what was compiled here into the bucket, behind everybody's back: one thread, a bounded queue, a bounded end.

Nobody waits for it. What does not fit into the queue, fails, or is not done when the daemon ends is dropped and
counted: `mlc-jit remote push` does it later. What does not belong here: what is put there (`tier`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from mlc_jitd.fleet.guard import AwayError
from mlc_jitd.fleet.objects import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.fleet.tier import Tier

logger = logging.getLogger(__name__)

MOST_WAITING = 256
FLUSH_SECONDS = 20.0
"""How long the end of a daemon waits for what is still to be written."""

TURN_SECONDS = 1.0
"""How often the chores get their turn, besides after each task."""

Task = tuple[str, "Callable[[], object]"]


class Writer:
    """See the module's docstring. `start` and `close` are called once each.

    Args:
        tier: The bucket.
        chores: What else this thread does now and then; they never raise, and are quick when there is nothing to do.
    """

    def __init__(self, tier: Tier, *chores: Callable[[], None]) -> None:
        self._tier = tier
        self._chores = chores
        self._queue: queue.Queue[Task | None] = queue.Queue(MOST_WAITING)
        self._by = float("inf")
        self._thread = threading.Thread(target=self._run, name="remote-writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, what: str, task: Callable[[], object]) -> None:
        """Have something written soon; never waits.

        Args:
            what: For the log.
            task: Writes it; may raise `RemoteError`, `OSError`, `ValueError`.
        """
        try:
            self._queue.put_nowait((what, task))
        except queue.Full:
            self._drop(what, "too much waits to be written")

    def waiting(self) -> int:
        """How much waits."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what waits, for ``FLUSH_SECONDS`` at most, and end."""
        if self._thread.ident is None:
            return
        self._by = time.monotonic() + FLUSH_SECONDS
        try:
            self._queue.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            logger.warning("the queue of what goes into %s did not get shorter", self._tier.url)
        self._thread.join(max(0.0, self._by - time.monotonic()))
        if self._thread.is_alive():
            logger.warning("%d things were not written to %s: the daemon ends", self.waiting() + 1, self._tier.url)

    def _run(self) -> None:
        while True:
            try:
                task = self._queue.get(timeout=TURN_SECONDS)
            except queue.Empty:
                pass
            else:
                if task is None:
                    return
                self._write(*task)
            for chore in self._chores:
                chore()

    def _write(self, what: str, task: Callable[[], object]) -> None:
        if time.monotonic() > self._by:
            self._drop(what, "the daemon ends")
            return
        try:
            task()
        except AwayError as error:
            self._drop(what, str(error))
        except (RemoteError, OSError, ValueError) as error:
            self._drop(what, str(error))
        except Exception:
            self._tier.count("remote_unwritten")
            logger.exception("%s could not be written to %s", what, self._tier.url)

    def _drop(self, what: str, why: str) -> None:
        self._tier.count("remote_unwritten")
        logger.warning("%s was not written to %s: %s", what, self._tier.url, why)
