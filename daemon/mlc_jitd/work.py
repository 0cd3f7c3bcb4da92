"""The slow work on one request: look it up, or compile it. The daemon and ``mlc-jitd once`` share it.

It knows identity, store, build and toolchains, and nothing of clients, queues or sockets. Every method may be called
from any thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mlc_jit.errors import (
    CompileCancelledError,
    CompileError,
    CompileKilledError,
    CompileOutOfMemoryError,
    ConfigInvalidError,
    JitError,
)
from mlc_jitd.compiling import TOOLCHAIN_CHANGED
from mlc_jitd.fellows import Away, Came, NoLease
from mlc_jitd.identity import end_helpers
from mlc_jitd.known import Known
from mlc_jitd.locked import Locked, take
from mlc_jitd.store import Found
from mlc_jitd.upstream import Upstream

if TYPE_CHECKING:
    from mlc_jit.messages import JitRequest
    from mlc_jitd.build import StopSignal
    from mlc_jitd.compiling import Compiler, Order, Report
    from mlc_jitd.elsewhere import Elsewhere, Fetched
    from mlc_jitd.explain import Explanation
    from mlc_jitd.farming import Farming, Make
    from mlc_jitd.fellows import Fellows, Lease
    from mlc_jitd.identity import Identifier, Identity, UpstreamName
    from mlc_jitd.store import Entry, Missing, Store
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.upstream import Stopgap

logger = logging.getLogger(__name__)

GLANCE_SECONDS = 0.25
"""How long a compile waits for manifests to be read that might explain it; a daemon has read them before."""

EXPLAIN_SECONDS = 2.0
"""The same where nothing but the explanation is to be had."""

RECENT_SECONDS = 5.0
"""How long a compile goes by what the look-up before it heard from elsewhere."""

HERE_ALONE = (CompileCancelledError, CompileKilledError, CompileOutOfMemoryError)
"""Ends of a compile that are this host's and not the configuration's."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """What a request came to.

    Attributes:
        identity: What exactly is asked.
        answer: What the store has of it.
        why: Why it is no answer, in words: a sentence without its stop; empty for a hit.
        stopgap: Upstream's own file, where the policy is READONLY and there is no entry.
    """

    identity: Identity
    answer: Found | Missing
    why: str = ""
    stopgap: Stopgap | None = None

    def after(self, fetched: Fetched) -> LookUp:
        """The same request, once it was asked for elsewhere."""
        if fetched.entry is not None:
            return LookUp(self.identity, Found(fetched.entry))
        return replace(self, why="; ".join(filter(None, (self.why, fetched.why))))


@dataclass(frozen=True, slots=True)
class Explained:
    """What a request would come to, and why; ``upstream`` has the names under which upstream would look."""

    identity: Identity
    answer: Found | Missing
    explanation: Explanation
    upstream: tuple[UpstreamName, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """The entry, and whether this process compiled it or found that another one had."""

    entry: Entry
    compiled: bool


class Work:
    """See the module's docstring.

    Args:
        identifier: Request to key.
        store: The cache.
        compiler: Compiles what is not there.
    """

    def __init__(self, identifier: Identifier, store: Store, compiler: Compiler) -> None:
        self.identifier = identifier
        self.store = store
        self.compiler = compiler
        self.known = Known(store, identifier.edits)
        self.upstream = Upstream(identifier, store)
        self.farming: Farming | None = None
        """Who compiles for this host."""
        self.fellows: Fellows | None = None
        """Other hosts that may compile the same."""
        self.elsewhere: Elsewhere | None = None
        """Where libraries may be that are not here."""

    def look_up(self, request: JitRequest) -> LookUp:
        """Work out what is asked and whether it is there.

        Raises:
            JitError: The request can't be met, whatever the cache holds.
        """
        identity = self._identify(request)
        answer = self.store.find(identity.key)
        if isinstance(answer, Found):
            return LookUp(
                identity, answer, "MLC_JIT_POLICY=REDO asks for a new one" if request.policy == "REDO" else ""
            )
        readonly = request.policy == "READONLY"
        why = self._why(request, identity, answer, seconds=EXPLAIN_SECONDS if readonly else GLANCE_SECONDS)
        why = "; ".join(filter(None, (why, answer.unread)))
        stopgap = self._stopgap(request, identity) if readonly else ""
        if isinstance(stopgap, str):
            return LookUp(identity, answer, "; ".join(filter(None, (why, stopgap))))
        return LookUp(identity, answer, why, stopgap)

    def explain(self, request: JitRequest) -> Explained:
        """What a request would come to, and why. Compiles nothing.

        Raises:
            JitError: The request can't be met, whatever the cache holds.
        """
        identity = self._identify(request)
        answer = self.store.find(identity.key)
        upstream: tuple[UpstreamName, ...] = ()
        try:
            upstream = self.upstream.names(request, identity)
        except JitError as error:
            logger.info("upstream's names of %s are not known: %s", identity.key[:12], error.message)
        return Explained(identity, answer, self.known.why(identity, request.model_path), upstream)

    def _identify(self, request: JitRequest) -> Identity:
        try:
            return self.identifier.identify(request)
        except ConfigInvalidError as error:
            raise ConfigInvalidError(f"{request.model_path}: {error.message}", **error.facts()) from error

    def _why(self, request: JitRequest, identity: Identity, answer: Missing, *, seconds: float) -> str:
        """Why an answer is none; no reason at all is better than no library."""
        if answer.reason != "absent" or answer.remedy:
            return answer.detail
        try:
            return self.known.why(identity, request.model_path, seconds=seconds).words
        except Exception:
            logger.exception("a miss could not be explained")
            return answer.detail

    def _stopgap(self, request: JitRequest, identity: Identity) -> Stopgap | str:
        try:
            return self.upstream.stopgap(request, identity)
        except JitError as error:
            logger.info("upstream's name of %s is not known: %s", identity.key[:12], error.message)
            return ""

    def build(self, order: Order, report: Report, stop: StopSignal) -> Built | Away:
        """Compile and publish, under the key's lock, unless another process or host does or just did.

        Args:
            order: What to compile.
            report: Told each stage, from this thread.
            stop: Ends it from another thread.

        Raises:
            CompileError: It was tried and failed; ``reason`` is ``toolchain-changed`` if the compiler was replaced
                meanwhile, so that the result belongs to no key.
            StoreError: The cache can't take the library.
            DrainingError: ``stop`` said so.
        """
        key = order.identity.key
        lock = self.store.lock(key)
        if not lock.acquire(0):
            return Locked(self.store, order)
        try:
            answer = self.store.find(key)
            if isinstance(answer, Found) and not order.redo:
                return Built(answer.entry, compiled=False)
            if order.redo:
                return self._make(order, NoLease(), report, stop)
            if self.fellows is None:
                fetched = (
                    None
                    if self.elsewhere is None
                    else self.elsewhere.fetch(order.identity, locked=True, known=RECENT_SECONDS)
                )
                if fetched is not None and fetched.entry is not None:  # it came while this job was queued
                    return Built(fetched.entry, compiled=False)
                return self._make(order, NoLease(), report, stop)
            taken = self.fellows.take(order.identity, stop)
            if isinstance(taken, Came):
                return Built(taken.entry, compiled=False)
            if isinstance(taken, Away):
                return taken
            return self._make(order, taken, report, stop)
        finally:
            lock.release()

    def counters(self) -> dict[str, int]:
        """What the store, the kernels' store, the warm compilers and the fleet counted."""
        remote = {} if self.elsewhere is None else self.elsewhere.counters()
        leases = {} if self.fellows is None else self.fellows.counters()
        farm = {} if self.farming is None else self.farming.counters()
        return {**self.store.counters(), **self.compiler.counters(), **remote, **leases, **farm}

    def close(self) -> None:
        """End the warm compilers, when no compile runs any more, and the compilers that are being asked something."""
        end_helpers()
        self.compiler.close()

    def _make(self, order: Order, lease: Lease, report: Report, stop: StopSignal) -> Built | Away:
        if self.farming is not None and self.farming.takes(order):
            return self.farming.send(self.store, order, lease, take=take, under=self._under)
        return Built(self._under(lease, partial(self.compiler.compile, order), report, stop), compiled=True)

    def _under(self, lease: Lease, make: Make, report: Report, stop: StopSignal) -> Entry:
        """Compile, and let the other hosts know how that goes.

        Args:
            lease: Ended, or kept until the library is shared.
            make: Compiles and publishes.
            report: Told each stage.
            stop: Ends it.

        Raises:
            JitError: There is no library.
        """

        def told(stage: Stage) -> None:
            lease.tell(stage)
            report(stage)

        try:
            entry = make(told, stop)
        except CompileError as error:
            here_alone = isinstance(error, HERE_ALONE) or error.reason == TOOLCHAIN_CHANGED
            lease.end("released" if here_alone else "failed")
            raise
        except BaseException:
            lease.end("released")
            raise
        lease.made()
        return entry
