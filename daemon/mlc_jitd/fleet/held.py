"""A lease that this host has, kept alive by a thread of its own until its end.

What does not belong here: how one is taken (`leasing`).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from mlc_jitd.fleet.objects import AbsentError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.fleet.lease import Holding
    from mlc_jitd.fleet.objects import Bucket
    from mlc_jitd.fleet.record import Ended, Record
    from mlc_jitd.tally import Tally
    from mlc_jitd.toolchains.base import Stage

logger = logging.getLogger(__name__)

LEASES = "v1/leases"

PUBLISH_SECONDS = 300.0
"""How long after its compile a host may take to put the library into the bucket."""


def place(key: str, generation: int) -> str:
    """The name of a generation's object; names sort as their numbers do."""
    return f"{LEASES}/{key}/{generation:08d}"


class Held:
    """A generation that this host holds, kept alive by a thread of its own until it is ended.

    Args:
        bucket: Where.
        key: Of what.
        holding: The generation.
        tally: Counts ``lease_lost`` and ``lease_faults``.
        over: Told when the last word is written, or given up.
    """

    def __init__(self, bucket: Bucket, key: str, holding: Holding, tally: Tally, over: Callable[[Held], None]) -> None:
        self.key = key
        self._bucket = bucket
        self._holding = holding
        self._tally = tally
        self._over = over
        self._stage = "starting"
        self._made_at: float | None = None
        self._how: Ended = ""
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{key[:8]}", daemon=True)
        self._thread.start()

    def tell(self, stage: Stage) -> None:
        """See `Lease`."""
        self._stage = stage.name

    def made(self) -> None:
        """See `Lease`."""
        self._stage, self._made_at = "publish", time.monotonic()

    def end(self, how: Ended) -> None:
        """See `Lease`; also for ``published``. The first word stays."""
        if not self._how:
            self._how = how
            self._wake.set()

    def confirm(self) -> bool:
        """Whether nobody has taken over. The bucket is asked, so a host that was frozen learns of it in time."""
        try:
            self._look_ahead()
        except RemoteError:
            return not self._holding.doubtful(time.monotonic())
        return not self._holding.lost

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._wake.wait(max(0.0, self._holding.due() - time.monotonic())):
                if self._made_at is not None and time.monotonic() - self._made_at > PUBLISH_SECONDS:
                    self.end("released")
                elif not self._holding.lost:
                    self._beat()
                else:
                    self._holding.kept(time.monotonic())  # another host has it: no more signs of life
            if not self._holding.lost:
                self._last_word()
        except Exception:
            logger.exception("the lease of %s is kept no longer", self.key[:12])
        finally:
            self._over(self)

    def _beat(self) -> None:
        sent = time.monotonic()
        try:
            self._write(self._holding.beat(sent, stage=self._stage))
            self._holding.kept(sent)
            self._look_ahead()
        except RemoteError as error:
            self._tally.add("lease_faults")
            logger.debug("no sign of life for %s: %s", self.key[:12], error)
            self._wake.wait(min(1.0, self._holding.terms.beat))

    def _last_word(self) -> None:
        record = self._holding.beat(time.monotonic(), stage=self._stage, ended=self._how)
        for pause in (0.2, 1.0, None):
            try:
                self._write(record)
            except RemoteError as error:
                self._tally.add("lease_faults")
                logger.debug("the end of the lease of %s could not be written: %s", self.key[:12], error)
                if pause is not None:
                    time.sleep(pause)
            else:
                return

    def _write(self, record: Record) -> None:
        self._bucket.put(place(self.key, self._holding.generation), record.encode())

    def _look_ahead(self) -> None:
        exists = True
        try:
            self._bucket.head(place(self.key, self._holding.generation + 1))
        except AbsentError:
            exists = False
        if exists and not self._holding.lost:
            self._tally.add("lease_lost")
            logger.warning(
                "the lease of %s was lost: this host was silent for too long, and another one compiles it too",
                self.key[:12],
            )
        self._holding.ahead(exists=exists)
