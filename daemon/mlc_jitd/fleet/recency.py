"""When libraries of the bucket were last used: an empty object for each key and day, written by who comes first.

::

    v1/uses/<YYYY-MM-DD>/<key>

A host tells of a key once a day, in a batch, some minutes after its first use: of many hosts that boot together most
then find that it was told. Names say everything, so a collection only lists. What does not belong here: what goes.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from mlc_jitd.fleet.objects import AbsentError, Bucket, DeniedError, RemoteError
from mlc_jitd.store.layout import is_key

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

USES = "v1/uses"
SPREAD_SECONDS = 600.0
MOST = 512
"""Keys of one batch; the others have their turn in the next."""

MOST_OBJECTS = 1_000_000
DAY_SECONDS = 86_400.0


class Recency:
    """The uses that this host tells of. From any thread.

    Args:
        bucket: Where.
        clock: Unix time.
        spread: Seconds within which a batch is written.
    """

    def __init__(
        self, bucket: Bucket, *, clock: Callable[[], float] = time.time, spread: float = SPREAD_SECONDS
    ) -> None:
        self._bucket, self._clock, self._spread = bucket, clock, spread
        self._lock = threading.Lock()
        self._day = ""
        self._told: set[str] = set()
        self._noted: set[str] = set()
        self._due = float("inf")
        self._denied = False

    def note(self, key: str) -> None:
        """A key is used. Quick."""
        with self._lock:
            today = _day(self._clock())
            if today != self._day:
                self._day, self._told, self._denied = today, set(), False
            if key in self._told or key in self._noted or self._denied:
                return
            if not self._noted:
                self._due = self._clock() + random.uniform(0, self._spread)  # noqa: S311 - so that not all tell at once
            self._noted.add(key)

    def flush(self, *, now: bool = False) -> None:
        """Write the batch, if its time has come; what can't be written is forgotten. It never raises."""
        with self._lock:
            if not self._noted or (not now and self._clock() < self._due):
                return
            batch = sorted(self._noted)[:MOST]
            self._noted -= set(batch)
            self._told |= set(batch)
            day = self._day
        try:
            for key in batch:
                self._tell(f"{USES}/{day}/{key}")
        except DeniedError as error:
            logger.info("uses are not noted in the bucket today: %s", error)
            with self._lock:
                self._denied, self._noted = True, set()
        except RemoteError as error:
            logger.info("some uses were not noted in the bucket: %s", error)

    def _tell(self, name: str) -> None:
        try:
            self._bucket.head(name)
        except AbsentError:
            self._bucket.put(name, b"")


def last_uses(bucket: Bucket) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """When each key was last used, and the objects that say so.

    Returns:
        By key, the end of the last day on which it was used, as Unix time; and each object with the end of its day.

    Raises:
        RemoteError: The bucket is in trouble.
    """
    last: dict[str, float] = {}
    objects = []
    for each in bucket.list(USES, most=MOST_OBJECTS):
        day, _, key = each.name.removeprefix(f"{USES}/").partition("/")
        at = _end(day)
        if at is not None and is_key(key):
            last[key] = max(last.get(key, 0.0), at)
            objects.append((each.name, at))
    return last, objects


def _day(now: float) -> str:
    return dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%d")


def _end(day: str) -> float | None:
    try:
        begin = dt.datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return begin.timestamp() + DAY_SECONDS
