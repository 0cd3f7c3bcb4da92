"""A compile that a farm does for this host: under the key's lock and the fleet's lease, published in the ordinary way.

What the farm can't do is compiled here, or has failed, as is set. What does not belong here: what a farm is (`fleet`).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal

from mlc_jit.errors import CompileError
from mlc_jitd.fellows import Came, Farm, FarmError
from mlc_jitd.store import Found
from mlc_jitd.toolchains.base import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.build import StopSignal
    from mlc_jitd.compiling import Order, Report
    from mlc_jitd.fellows import Away, Lease
    from mlc_jitd.store import Entry, KeyLock, Store

    Make = Callable[[Report, StopSignal], Entry]
    """Compiles and publishes."""
    Take = Callable[[KeyLock, Report, StopSignal], bool]
    Under = Callable[[Lease, Make, Report, StopSignal], Entry]

logger = logging.getLogger(__name__)

SPARE_BYTES = 1 << 20
"""What publishing takes besides the library."""

Fallback = Literal["local", "fail"]


class Farming:
    """The farm as this host uses it. From any thread.

    Args:
        farm: It.
        fallback: ``local``: what it can't do is compiled here; ``fail``: it is an error.
    """

    def __init__(self, farm: Farm, fallback: Fallback) -> None:
        self.farm = farm
        self.fallback = fallback
        self._lock = threading.Lock()
        self._here: set[str] = set()
        """Keys whose next compile is this host's own: the farm could not."""

    def takes(self, order: Order) -> bool:
        """Whether the farm is to be asked."""
        with self._lock:
            if order.identity.key in self._here:
                self._here.discard(order.identity.key)
                return False
        return True

    def send(self, store: Store, order: Order, lease: Lease, *, take: Take, under: Under) -> Away:
        """Have it done.

        Args:
            store: The cache.
            order: What.
            lease: Of the fleet, if there is one.
            take: Takes the key's lock.
            under: Makes something under a lease.
        """
        return _Sent(self, store, order, lease, take=take, under=under)

    def not_there(self, key: str, why: str) -> None:
        """The farm could not.

        Raises:
            CompileError: And so it is not done at all.
        """
        if self.fallback == "fail":
            raise CompileError(
                f"The compile farm could not: {why}.",
                remedy="See to the farm, or let this host compile: executor_fallback = local.",
                reason="farm",
                key=key,
            )
        logger.warning("%s is compiled here: %s", key[:12], why)
        with self._lock:
            self._here.add(key)

    def counters(self) -> dict[str, int]:
        """How often what happened."""
        return self.farm.counters()


class _Sent:
    """An `Away`: the job has no cores, and its thread waits for the farm."""

    def __init__(self, farming: Farming, store: Store, order: Order, lease: Lease, *, take: Take, under: Under) -> None:
        self._farming = farming
        self._store = store
        self._take = take
        self._under = under
        self._order = order
        self._lease = lease

    def wait(self, report: Report, stop: StopSignal) -> Came | None:
        """See `Away.wait`."""
        order, store = self._order, self._store
        key = order.identity.key
        lock = store.lock(key)
        try:
            self._take(lock, report, stop)
        except BaseException:
            self._lease.end("released")
            raise
        try:
            there = store.find(key)
            if isinstance(there, Found) and not order.redo:  # another process was faster
                self._lease.end("released")
                return Came(there.entry)
            return Came(self._under(self._lease, self._make, report, stop), compiled=True)
        except FarmError as error:
            if stop.reason is None:
                self._farming.not_there(key, str(error))
            return None
        finally:
            lock.release()

    def _make(self, report: Report, stop: StopSignal) -> Entry:
        order = self._order
        identity = order.identity
        crop = self._farming.farm.compile(
            identity,
            model_path=order.model_path,
            device=order.device,
            redo=order.redo,
            accelerated=order.accelerated,
            background=order.background,
            report=report,
            stop=stop,
        )
        report(Stage("publish"))
        with self._store.staging(identity.key, need=len(crop.library) + SPARE_BYTES) as folder:
            path = folder / f"lib.{identity.suffix}"
            path.write_bytes(crop.library)
            return self._store.publish(identity.key, path, crop.about)
