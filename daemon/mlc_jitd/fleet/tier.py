"""The bucket as this host uses it: what is fetched from it into the cache, and what of the cache is put into it.

A fault of the bucket is a counted miss and a line in the log, never an error for who asked. What does not belong here:
threads (`fetcher`, `writer`), and what makes a library worth believing (`libraries`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlc_jit.errors import JitError
from mlc_jitd.elsewhere import Arriving, Fetched, unheard
from mlc_jitd.fleet import libraries
from mlc_jitd.fleet.guard import AwayError
from mlc_jitd.fleet.objects import AbsentError, RemoteError
from mlc_jitd.fleet.signed import NOBODY, RefusedError
from mlc_jitd.store import About, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.fleet.guard import Guard
    from mlc_jitd.fleet.keys import PrivateKey, Trust
    from mlc_jitd.fleet.libraries import Offer
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry, KeyLock, Store

logger = logging.getLogger(__name__)

SPARE_BYTES = 1 << 20
"""What publishing takes besides the library."""

REFUSALS_KEPT = 20
REFUSED_AGAIN_SECONDS = 60.0
"""The same object, refused for the same reason within so long, is one refusal: a miss looks several times."""

MISSES_KEPT = 4096
TOLD_SECONDS = 0.25
"""How often is told how far a library is."""


_freely = contextlib.nullcontext(enter_result=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """An object that was not used: its name, why, and when (Unix time)."""

    name: str
    why: str
    at: float


class Tier:
    """See the module's docstring. From any thread.

    Args:
        url: Where the bucket is, for people.
        bucket: The bucket.
        store: The cache.
        trust: Whose libraries are taken.
        key: Signs what is put there.
        writes: Whether anything is put there.
    """

    def __init__(
        self, url: str, bucket: Guard, store: Store, *, trust: Trust, key: PrivateKey | None, writes: bool
    ) -> None:
        self.url = url
        self.bucket = bucket
        self.trust = trust
        self.key = key
        self.writes = writes
        self.publishing: Callable[[str], contextlib.AbstractContextManager[bool]] = lambda _key: _freely
        """Around putting a library there: whether this host may. Leases set it."""
        self.withheld: Callable[[str], None] = lambda _key: None
        """Told of a library that is not put there. Leases set it."""
        self.store = store
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()
        self._missed: dict[str, float] = {}
        """When asking for a key last came to nothing."""
        self.refusals: list[Refusal] = []
        """The last ones, the newest at the end."""

    def fetch(
        self,
        identity: Identity,
        *,
        locked: bool = False,
        known: float = 0.0,
        told: Callable[[Arriving], None] = unheard,
    ) -> Fetched:
        """See `Elsewhere.fetch`."""
        began = time.monotonic()
        if began - self._missed.get(identity.key, -known) < known:
            return Fetched()
        offer = None
        refusals: list[str] = []
        try:
            offer = self.find(identity, refusals.append)
            if offer is None:
                return self._miss(identity.key, refusals)
            entry = self.take(identity.key, offer, interpreter=identity.toolchain.python, locked=locked, told=told)
            if entry is None:
                return Fetched()
        except AwayError as error:
            return Fetched(why=f"{self.url}: {error}")
        except RemoteError as error:
            self.count("remote_failed")
            self._remember_miss(identity.key)
            logger.warning("%s could not be fetched from %s: %s", identity.key[:12], self.url, error)
            return Fetched(why=f"{self.url} is in trouble: {error}")
        except RefusedError as error:
            self.refuse(offer.name if offer is not None else identity.key, str(error))
            self.count("remote_misses")
            self._remember_miss(identity.key)
            return Fetched(why=f"what {self.url} has was refused: {error}")
        except (JitError, OSError) as error:
            self.count("remote_failed")
            logger.warning("%s could not be kept here: %s", identity.key[:12], error)
            return Fetched(why=f"what {self.url} has can't be kept here: {error}")
        self.count("remote_hits")
        seconds = time.monotonic() - began
        logger.info("%s came from %s in %.2f s, %d bytes", identity.key[:12], self.url, seconds, entry.size)
        return Fetched(entry)

    def find(self, identity: Identity, refused: Callable[[str], None] = lambda _why: None) -> Offer | None:
        """A library of the bucket that may be believed; what may not is named in the log.

        Args:
            identity: Which.
            refused: Told why something was not believed.

        Raises:
            RemoteError: The bucket is in trouble.
        """

        def refuse(name: str, why: str) -> None:
            self.refuse(name, why)
            refused(why)

        offer = libraries.find(self.bucket, identity.key, self.trust, refuse)
        if offer is None:
            return None
        said = offer.manifest
        if (said.suffix, said.system_lib_prefix) != (identity.suffix, identity.result_prefix):
            refuse(offer.name, f"its library is a {said.suffix!r} for the prefix {said.system_lib_prefix!r}")
            return None
        return offer

    def _miss(self, key: str, refusals: list[str]) -> Fetched:
        """There is none, or none that may be used."""
        self.count("remote_misses")
        self._remember_miss(key)
        why = f"what {self.url} has was refused: {'; '.join(refusals)}" if refusals else f"{self.url} has none"
        return Fetched(why=why)

    def _remember_miss(self, key: str) -> None:
        with self._lock:
            if len(self._missed) >= MISSES_KEPT:
                self._missed.clear()
            self._missed[key] = time.monotonic()

    def push(self, entry: Entry, *, again: bool = False) -> Literal["written", "there"]:
        """Put an entry of the cache into the bucket.

        Raises:
            RemoteError: It is not there now, or nobody knows.
            OSError, ValueError: The entry is no more what it was.
        """
        done = libraries.upload(self.bucket, entry.manifest, Path(entry.path), self.key, again=again)
        self.count(f"remote_{done}")
        return done

    def share(self, entry: Entry, *, again: bool = False) -> None:
        """Put what was compiled here into the bucket, if this host does that. Trouble is logged and counted."""
        if not self.writes or entry.manifest.degraded:
            self.withheld(entry.key)
            return
        try:
            with self.publishing(entry.key) as may:
                if may:
                    self.push(entry, again=again)
        except (RemoteError, OSError, ValueError) as error:
            self.count("remote_unwritten")
            logger.warning("%s was not put into %s: %s", entry.key[:12], self.url, error)

    def _teller(self, size: int, told: Callable[[Arriving], None]) -> Callable[[int], None]:
        """Tells how many bytes have come: that it begins, and then not too often."""
        told(Arriving(self.url, 0, size))
        last = time.monotonic()

        def tell(got: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= TOLD_SECONDS:
                last = now
                told(Arriving(self.url, got, size))

        return tell

    def refuse(self, name: str, why: str) -> None:
        """Note an object that may not be used."""
        now = time.time()
        with self._lock:
            same = [each for each in self.refusals if (each.name, each.why) == (name, why)]
            if same and 0 <= now - same[0].at < REFUSED_AGAIN_SECONDS:
                return
            others = [each for each in self.refusals if each not in same]
            self.refusals[:] = [*others[1 - REFUSALS_KEPT :], Refusal(name, why, now)]
        self.count("remote_refused")
        logger.warning("%s/%s was refused: %s", self.url, name, why)

    def count(self, name: str, by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counters[name] += by

    def counters(self) -> dict[str, int]:
        """How often what happened since this object was made.

        ``remote_hits``, ``remote_misses``; ``remote_failed``: the bucket or this host could not; ``remote_refused``:
        objects that may not be used; ``remote_written``, ``remote_there``: libraries put there, and such as were there
        already; and those of `Guard`.
        """
        with self._lock:
            return {**self._counters, **self.bucket.counters}

    @contextlib.contextmanager
    def _turn(self, key: str, locked: bool) -> Iterator[bool]:
        """The key's lock, or that somebody else has it."""
        lock: KeyLock | None = None if locked else self.store.lock(key)
        if lock is not None and not lock.acquire(0):
            yield False
            return
        try:
            yield True
        finally:
            if lock is not None:
                lock.release()

    def take(
        self,
        key: str,
        offer: Offer,
        *,
        interpreter: str = "",
        locked: bool = False,
        told: Callable[[Arriving], None] = unheard,
    ) -> Entry | None:
        """Publish an offered library here; ``None`` while somebody else makes it.

        Args:
            key: Which.
            offer: What the bucket has.
            interpreter: The toolchain's on this host, for people.
            locked: The caller holds the key's lock.
            told: How far it is.

        Raises:
            RefusedError: The bytes are not the ones that were signed for.
            RemoteError: The bucket is in trouble.
            JitError, OSError: It can't be kept here.
        """
        with self._turn(key, locked) as free:
            return self._take(key, offer, interpreter, told) if free else None

    def _take(self, key: str, offer: Offer, interpreter: str, told: Callable[[Arriving], None]) -> Entry:
        here = self.store.find(key)
        if isinstance(here, Found):
            return here.entry  # another process was faster
        said = offer.manifest
        with self.store.staging(key, need=said.size + SPARE_BYTES) as folder:
            path = folder / f"lib.{said.suffix}"
            try:
                libraries.download(self.bucket, offer, path, self._teller(offer.stored, told))
            except AbsentError as error:
                raise RefusedError("its library is gone") from error
            about = About(**{each.name: getattr(said, each.name) for each in dataclasses.fields(About)})
            signer = "nobody" if offer.signer == NOBODY else offer.signer
            about = dataclasses.replace(
                about,
                origin=f"{self.url}, signed by {signer}",
                toolchain=dataclasses.replace(about.toolchain, interpreter=interpreter),
            )
            return self.store.publish(key, path, about)
