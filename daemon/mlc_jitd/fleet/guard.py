"""A bucket that is asked no more than it can bear: a budget of retries, a circuit breaker, its health in figures.

Reads and writes have a breaker each: a bucket that is full, or that this host may not write, still serves. What does
not belong here: the door itself (`objects`), and what a fault means to somebody who waits.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from mlc_jitd.fleet.objects import Body, Bucket, DeniedError, FaultError, Meta, RemoteError
from mlc_jitd.fleet.patience import Breaker, Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

RETRIES = 2
RETRY_SECONDS = 0.2
SLOW_SECONDS = 2.0
"""A request that took longer and failed is not tried again: whoever waits has waited enough."""

PROBE = "v1/probe"
"""Asked for when a pause is over. It need not be there: an answer is what counts."""

T = TypeVar("T")
Way = Literal["read", "write"]


class AwayError(FaultError):
    """The bucket was not asked: it has failed several times just now."""


@dataclass(frozen=True, slots=True)
class Health:
    """How one way of a bucket is.

    Attributes:
        ok: Whether it is asked.
        faults: In a row, just now.
        trouble: What came last, in words; empty when the last answer was a good one.
        pause: Seconds until it is tried again; 0 when it is asked.
    """

    ok: bool
    faults: int
    trouble: str
    pause: float


class Guard:
    """A `Bucket` around another one. From any thread.

    Args:
        bucket: The one that is asked.
        clock: Seconds that only go forward.
        sleep: Waits between tries.
        unattended: Nobody calls `probe`: when a pause is over, one who has a request tries it instead.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        unattended: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bucket = bucket
        self._unattended = unattended
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._breakers: dict[Way, Breaker] = {"read": Breaker(), "write": Breaker()}
        self._trouble: dict[Way, str] = {"read": "", "write": ""}
        self._budget = Budget()
        self.counters: Counter[str] = Counter()
        """``remote_requests``, ``remote_retries``, ``remote_faults``, ``remote_denied``, ``remote_skipped``: not even
        asked; ``remote_bytes_read``, ``remote_bytes_written``."""

    def get(self, name: str, *, most: int, told: Callable[[int], None] | None = None) -> Body:
        """As `Bucket.get`; ``told`` begins anew with each try."""
        more = {} if told is None else {"told": told}
        found = self._call("read", lambda: self._bucket.get(name, most=most, **more))
        self._count("remote_bytes_read", len(found.data))
        return found

    def head(self, name: str) -> Meta:
        """As `Bucket.head`."""
        return self._call("read", lambda: self._bucket.head(name))

    def put(self, name: str, data: bytes, *, create: bool = False, tag: str = "") -> str:
        """As `Bucket.put`; after a retry, `ExistsError` may be about the first try's object."""
        done = self._call("write", lambda: self._bucket.put(name, data, create=create, tag=tag))
        self._count("remote_bytes_written", len(data))
        return done

    def list(self, prefix: str, *, most: int, after: str = "") -> list[Meta]:
        """As `Bucket.list`."""
        return self._call("read", lambda: self._bucket.list(prefix, most=most, after=after))

    def delete(self, names: Sequence[str]) -> None:
        """As `Bucket.delete`."""
        self._call("write", lambda: self._bucket.delete(names))

    def health(self, way: Way) -> Health:
        """How it is now."""
        with self._lock:
            breaker = self._breakers[way]
            pause = max(0.0, breaker.until - self._clock()) if breaker.open else 0.0
            return Health(not breaker.open, breaker.faults, self._trouble[way], pause)

    def probe(self) -> None:
        """Ask once where a pause is over, so that nobody who waits has to. It never raises."""
        for way, breaker in self._breakers.items():
            with self._lock:
                due = breaker.probe_due(self._clock())
            if due:
                try:
                    self._once(way, self._ask if way == "read" else self._tell)
                except RemoteError as error:
                    logger.debug("the bucket was probed: %s", error)

    def _ask(self) -> None:
        self._bucket.head(PROBE)

    def _tell(self) -> None:
        self._bucket.put(PROBE, b"")

    def _call(self, way: Way, request: Callable[[], T]) -> T:
        for retry in range(RETRIES + 1):
            with self._lock:
                breaker = self._breakers[way]
                if breaker.open and not (self._unattended and breaker.probe_due(self._clock())):
                    self.counters["remote_skipped"] += 1
                    raise AwayError(f"the bucket is not asked for now: {self._trouble[way]}")
            began = self._clock()
            try:
                return self._once(way, request)
            except DeniedError:
                raise
            except FaultError:
                if retry == RETRIES or self._clock() - began > SLOW_SECONDS:
                    raise
                with self._lock:
                    if not self._budget.spend():
                        raise
                    self.counters["remote_retries"] += 1
                self._sleep(RETRY_SECONDS * 2**retry * random.uniform(0.5, 1.5))  # noqa: S311 - so that not all ask at once
        raise AssertionError("the last try returns or raises")

    def _once(self, way: Way, request: Callable[[], T]) -> T:
        """One request, and what it says of the bucket."""
        self._count("remote_requests")
        try:
            found = request()
        except FaultError as error:
            self._failed(way, error)
            raise
        except RemoteError:
            self._succeeded(way)  # it answered, and in time
            raise
        self._succeeded(way)
        return found

    def _failed(self, way: Way, error: FaultError) -> None:
        denied = isinstance(error, DeniedError)
        with self._lock:
            breaker = self._breakers[way]
            self.counters["remote_denied" if denied else "remote_faults"] += 1
            self._trouble[way] = str(error)
            if denied and way == "read":
                # Some engines say so of what is not there. It costs nobody time, so there is no need for a pause.
                breaker.probing = False
                return
            opened = breaker.failed(self._clock(), at_once=denied)
        if opened:
            logger.warning("the bucket is not asked for a while (%s): %s", way, error)

    def _succeeded(self, way: Way) -> None:
        with self._lock:
            breaker, self._trouble[way] = self._breakers[way], ""
            back = breaker.open
            breaker.succeeded()
            self._budget.earn()
        if back:
            logger.info("the bucket is asked again (%s)", way)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counters[name] += by
