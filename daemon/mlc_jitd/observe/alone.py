"""The record of one compile without a daemon (``mlc-jitd once``), written when it ends; if it can't be, it is lost."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from mlc_jitd.observe.ends import ending, subject_of
from mlc_jitd.observe.history import History
from mlc_jitd.observe.record import Record
from mlc_jitd.observe.who import named_process

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jit.errors import JitError
    from mlc_jit.messages import JitRequest
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.work import Built, LookUp

logger = logging.getLogger(__name__)


class Alone:
    """One compile, from now on.

    Args:
        library: ``model_lib``.
        request: What is asked.
        found: What it came to.
        reason: Why it is no hit.
        asker: The process that waits.
        cores: What the compile may use.
    """

    def __init__(
        self, library: Path, request: JitRequest, found: LookUp, reason: str, *, asker: int, cores: int
    ) -> None:
        self._history = History(library)
        self._record = Record()
        self._key = found.identity.key
        now = time.monotonic()
        subject = subject_of(found.identity, request, reason=reason, why=found.why)
        self._record.enqueued(subject, now=now, unix=time.time(), background=request.prewarm)
        self._record.joined(self._key, (b"", 0), named_process(asker, os.getuid()), now=now)
        self._record.started(self._key, cores=cores, now=now)

    def entered(self, stage: Stage) -> None:
        """It came to a stage."""
        self._record.entered(self._key, stage.name, stage.detail, now=time.monotonic())

    def ended(self, end: Built | JitError) -> None:
        """It is over."""
        record = self._record.finished(self._key, ending(end), now=time.monotonic())
        assert record is not None, "it was begun"
        try:
            self._history.add_jobs([record])
        except OSError as error:
            logger.warning("the history in %s can't be written: %s", self._history.folder, error)
