"""Kernels of other hosts, got before a compile, and those of this one, given to the others behind everybody's back.

What does not belong here: their form in the bucket (`packs`), and what a compile does with them (`acceleration`).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from mlc_jitd.fleet import packs
from mlc_jitd.fleet.objects import AbsentError, RemoteError
from mlc_jitd.fleet.signed import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import KernelStore

logger = logging.getLogger(__name__)

GATHER_SECONDS = 15.0
"""How long a compile waits for kernels; it could have compiled some meanwhile."""

GATHER_BYTES = 128 << 20
AGAIN_SECONDS = 300.0
"""How long what was listed for a scope counts."""


class Pool:
    """See the module's docstring; an `acceleration.Pool`. From any thread.

    Args:
        tier: The bucket.
        store: The kernels of this host.
        later: Has something written soon, without waiting: what, for the log, and the task.
    """

    def __init__(self, tier: Tier, store: KernelStore, later: Callable[[str, Callable[[], object]], None]) -> None:
        self._tier, self._store, self._later = tier, store, later
        self._lock = threading.Lock()
        self._listed: dict[str, float] = {}
        self._seen: set[str] = set()

    def gather(self, identity: Identity, build: str) -> None:
        """See `acceleration.Pool`."""
        scope = packs.scope_of(identity, build)
        began = time.monotonic()
        with self._lock:
            if began - self._listed.get(scope, -AGAIN_SECONDS) < AGAIN_SECONDS:
                return
            self._listed[scope] = began
        kernels = size = 0
        try:
            for meta in packs.listed(self._tier.bucket, scope, self._tier.trust):
                if meta.name in self._seen:
                    continue
                if size + meta.size > GATHER_BYTES or time.monotonic() - began > GATHER_SECONDS:
                    break
                size += meta.size
                kernels += self._get(meta.name, scope)
        except RemoteError as error:
            logger.info("kernels of other hosts were not got: %s", error)
        if kernels:
            seconds = time.monotonic() - began
            logger.info("%d kernels came from %s in %.2f s, %d bytes", kernels, self._tier.url, seconds, size)

    def share(self, identity: Identity, build: str, keys: Collection[str]) -> None:
        """See `acceleration.Pool`."""
        if not keys or not self._tier.writes:
            return
        scope = packs.scope_of(identity, build)
        self._later(f"{len(keys)} kernels", lambda: self._put(scope, keys))

    def _get(self, name: str, scope: str) -> int:
        try:
            pack = packs.get(self._tier.bucket, name, scope, self._tier.trust)
        except AbsentError:
            return 0
        except RefusedError as error:
            self._tier.refuse(name, str(error))
            self._seen.add(name)
            return 0
        self._seen.add(name)
        return sum(self._store.put(key, data) for key, data in pack.kernels.items() if not self._store.has(key))

    def _put(self, scope: str, keys: Collection[str]) -> None:
        kernels = {key: data for key in keys if (data := self._store.get(key)) is not None}
        for part in _parts(kernels):
            self._seen.add(packs.put(self._tier.bucket, scope, part, self._tier.key))
            self._tier.count("remote_kernels_written", len(part))
        packs.merge(self._tier.bucket, scope, self._tier.key, self._tier.trust, self._tier.refuse)


def _parts(kernels: dict[str, bytes]) -> list[dict[str, bytes]]:
    """Kernels in packs that are not too long; one that is too long for any is left out."""
    parts: list[dict[str, bytes]] = []
    size = 0
    most = packs.MOST_PACK_BYTES // 2
    for key, data in kernels.items():
        if len(data) > most:
            continue
        if not parts or size + len(data) > most:
            parts.append({})
            size = 0
        parts[-1][key] = data
        size += len(data)
    return parts
