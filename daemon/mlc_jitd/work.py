"""The slow work on one request: look it up, or compile it. The daemon and ``mlc-jitd once`` share it.

It knows identity, store, build and toolchains, and nothing of clients, queues or sockets. Every method may be called
from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import CompileError, ConfigInvalidError, DaemonUnavailableError, JitError, StoreFullError
from mlc_jitd.build import JobGroups, Kind, Limits, Outcome, StopSignal, WarmCompilers, run
from mlc_jitd.headway import Stopwatch
from mlc_jitd.identity import end_helpers
from mlc_jitd.known import Known
from mlc_jitd.store import (
    About,
    CompileRecord,
    Entry,
    Found,
    KernelRecord,
    KeyLock,
    Missing,
    ModelRecord,
    PartRecord,
    Store,
    ToolchainRecord,
)
from mlc_jitd.toolchains import kernels
from mlc_jitd.toolchains.base import Stage, Toolchain
from mlc_jitd.upstream import Stopgap, Upstream
from mlc_jitd.verdicts import require_success, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jit.messages import JitRequest
    from mlc_jitd.acceleration import Acceleration
    from mlc_jitd.explain import Explanation
    from mlc_jitd.identity import Identifier, Identity, UpstreamName

logger = logging.getLogger(__name__)

STAGING_BYTES = 256 << 20
"""Room that a build is promised on the cache's disk: the library, its objects and temporary files."""

LOGS_KEPT = 256

CONFIG_KEPT_BYTES = 128 << 10
"""A longer config is not kept beside its library; real ones have 2 to 5 KB."""

GLANCE_SECONDS = 0.25
"""How long a compile waits for manifests to be read that might explain it; a daemon has read them before."""

EXPLAIN_SECONDS = 2.0
"""The same where nothing but the explanation is to be had."""

LOCK_SLICE_SECONDS = 0.5
FROZEN_SECONDS = 10.0
"""How long the holder of a key's lock may be stopped until nobody waits for it any more."""

TOOLCHAIN_CHANGED = "toolchain-changed"

LOCKED, LOADING = "locked", "loading"
"""Stages that are no part of a compile: another process has the key; a warm compiler is only being imported."""

Report = Callable[[Stage], None]


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


@dataclass(frozen=True, slots=True)
class Explained:
    """What a request would come to, and why; ``upstream`` has the names under which upstream would look."""

    identity: Identity
    answer: Found | Missing
    explanation: Explanation
    upstream: tuple[UpstreamName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One compile to do.

    Attributes:
        identity: What exactly.
        model_path: Where the client read the config; for people.
        device: The device text of the request.
        redo: An entry that is there already is no answer.
        asked_at: Unix time of the request: with ``redo``, an entry published after it by another process is one.
        cores: Threads the compiler may use.
        memory: Bytes its process tree may hold, ``None`` for no limit.
        background: Nobody waits for it.
        accelerated: Kernels may be compiled apart and reused, where that is possible; the result is the same.
    """

    identity: Identity
    model_path: str = ""
    device: str = ""
    redo: bool = False
    asked_at: float = 0.0
    cores: int = 1
    memory: int | None = None
    background: bool = False
    accelerated: bool = True


@dataclass(frozen=True, slots=True)
class Built:
    """The entry, and whether this process compiled it or found that another one had."""

    entry: Entry
    compiled: bool


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What running the compiler takes, the first time and again."""

    order: Order
    toolchain: Toolchain
    staging: Path
    output: Path
    log: Path
    enter: Report
    on_line: Callable[[str], None]
    stop: StopSignal


class Work:
    """See the module's docstring.

    Args:
        identifier: Request to key.
        store: The cache.
        toolchain: The host side of a toolchain, by its name.
        total: Seconds that one compile may take; 0 for no limit.
        silence: Seconds that a compiler may be silent; 0 for no limit.
        warm: Compilers that are imported already; without them, each compile is a process of its own from the start.
        groups: Where such a process gets a control group of its own.
        owner: Who works, as its compiles' processes name it.
        acceleration: Compiles kernels apart and reuses them; without it, every compile is the compiler's own.
    """

    def __init__(
        self,
        identifier: Identifier,
        store: Store,
        toolchain: Callable[[str], Toolchain],
        *,
        total: float,
        silence: float,
        warm: WarmCompilers | None = None,
        groups: JobGroups | None = None,
        owner: str = "",
        acceleration: Acceleration | None = None,
    ) -> None:
        self.identifier = identifier
        self.store = store
        self._toolchain = toolchain
        self._total = total
        self._silence = silence
        self._warm = warm
        self._groups = groups
        self._owner = owner
        self.acceleration = acceleration
        self.logs = store.layout.logs
        self.known = Known(store, identifier.edits)
        self.upstream = Upstream(identifier, store)
        self.make_room: Callable[[int], bool] = lambda _need: False
        """Collects until so many bytes are free on the cache's disk; whether anything went."""

    def limit(self, *, total: float, silence: float) -> None:
        """Other limits, for compiles that begin from now on; arguments as of the class."""
        self._total, self._silence = total, silence

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

    def build(self, order: Order, report: Report, stop: StopSignal) -> Built:
        """Compile and publish, under the key's lock, unless another process does or just did.

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
        waited = self._take(lock, report, stop)
        try:
            answer = self.store.find(key)
            if isinstance(answer, Found):
                created = answer.entry.manifest.created
                if not order.redo or (waited and created >= order.asked_at):
                    return Built(answer.entry, compiled=False)
            return Built(self._compile(order, report, stop), compiled=True)
        finally:
            lock.release()

    def counters(self) -> dict[str, int]:
        """What the store, the kernels' store and the warm compilers counted."""
        apart = {} if self.acceleration is None else self.acceleration.store.counters()
        warm = {} if self._warm is None else self._warm.counters()
        return {**self.store.counters(), **apart, **warm}

    def close(self) -> None:
        """End the warm compilers, when no compile runs any more, and the compilers that are being asked something."""
        end_helpers()
        if self._warm is not None:
            self._warm.close()

    def _take(self, lock: KeyLock, report: Report, stop: StopSignal) -> bool:
        """Take the key's lock; whether somebody else held it."""
        if lock.acquire(0):
            return False
        report(Stage(LOCKED, f"being compiled by {lock.holder() or 'another process'}"))
        thawed_at = time.monotonic()
        while not lock.acquire(LOCK_SLICE_SECONDS):
            if stop.reason is not None:
                raise stopped(stop.reason, lock.key)
            frozen = lock.frozen()
            if not frozen:
                thawed_at = time.monotonic()
            elif time.monotonic() - thawed_at > FROZEN_SECONDS:
                raise DaemonUnavailableError(
                    f"This configuration is being compiled by {frozen}, and that process is stopped.",
                    remedy="Let it go on (`kill -CONT`), or end it (`kill -9`), and ask again.",
                    reason="frozen",
                    key=lock.key,
                )
        return True

    def _compile(self, order: Order, report: Report, stop: StopSignal) -> Entry:
        identity = order.identity
        toolchain = self._toolchain(identity.toolchain.name)
        degraded: list[str] = []
        watch = Stopwatch()

        def enter(stage: Stage) -> None:
            # Loading is no time of this compile: the next one of its kind finds the compiler loaded.
            watch.enter("" if stage.name == LOADING else stage.name, time.monotonic())
            report(stage)

        def on_line(line: str) -> None:
            stage = kernels.stage(line) or toolchain.stage(line)
            if stage is not None:
                enter(stage)
            fallback = toolchain.degraded(line)
            if fallback is not None and fallback not in degraded:
                degraded.append(fallback)

        log = self._log(identity.key)
        with self._staging(identity.key) as staging:
            output = staging / f"lib.{identity.suffix}"
            started = time.time()
            acceleration = self.acceleration_for(identity, wanted=order.accelerated)
            attempt = _Attempt(order, toolchain, staging, output, log, enter, on_line, stop)
            outcome = self._run(attempt, acceleration)
            if acceleration is not None and not outcome.succeeded and acceleration.is_suspect(staging, outcome):
                acceleration = None
                outcome = self._run(attempt, None)
            stages = watch.stop(time.monotonic())
            require_success(outcome, identity, toolchain)
            if not output.is_file():
                raise CompileError(
                    "The compiler said that it succeeded, but left no library.",
                    remedy="See its log; this is a fault of the toolchain.",
                    reason="no-output",
                    key=identity.key,
                    log_path=os.fspath(log),
                    log_tail=outcome.log_tail,
                )
            if not self.identifier.recheck_thoroughly(identity):
                raise CompileError(
                    "The compiler was changed while it ran, so its result can't be trusted and was discarded.",
                    remedy="Ask again.",
                    reason=TOOLCHAIN_CHANGED,
                    key=identity.key,
                )
            report(Stage("publish"))
            record = KernelRecord() if acceleration is None else acceleration.settle(staging)
            about = _about(order, outcome, started=started, stages=stages, degraded=tuple(degraded), apart=record)
            return self.store.publish(identity.key, output, about)

    def acceleration_for(self, identity: Identity, *, wanted: bool) -> Acceleration | None:
        """What compiles its kernels apart, if that is wanted and may be possible."""
        acceleration = self.acceleration if wanted else None
        return acceleration if acceleration is not None and acceleration.takes(identity.toolchain) else None

    def _run(self, attempt: _Attempt, acceleration: Acceleration | None) -> Outcome:
        """One run of the compiler, in a warm one where there is one."""
        order, toolchain = attempt.order, attempt.toolchain
        attempt.output.unlink(missing_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=attempt.staging))
        job = order.identity.job
        command = toolchain.command(job, scratch=scratch, output=attempt.output, cores=order.cores)
        if acceleration is not None:
            command = acceleration.command(command, order.identity, attempt.staging, cores=order.cores)
        limits = Limits(
            total=self._total or None,
            silence=self._silence or None,
            memory_bytes=order.memory,
            cores=order.cores,
            background=order.background,
        )
        begin = Stage("start", f"{toolchain.name} on {order.cores} core{'s'[: order.cores != 1]}")
        attempt.enter(begin)
        if self._warm is None:
            return run(
                command,
                limits,
                log=attempt.log,
                on_line=attempt.on_line,
                stop=attempt.stop,
                groups=self._groups,
                owner=self._owner,
            )
        kind = self._kind(order.identity, toolchain)
        return self._warm.run(
            command,
            kind,
            limits,
            log=attempt.log,
            on_line=attempt.on_line,
            stop=attempt.stop,
            loading=lambda begins: attempt.enter(Stage(LOADING, "the compiler") if begins else begin),
        )

    @contextlib.contextmanager
    def _staging(self, key: str) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self.store.staging(key, need=STAGING_BYTES))
            except StoreFullError:
                if not self.make_room(2 * STAGING_BYTES):
                    raise
                folder = stack.enter_context(self.store.staging(key, need=STAGING_BYTES))
            yield folder

    def _kind(self, identity: Identity, toolchain: Toolchain) -> Kind:
        """Which warm compiler serves an identity."""
        job = identity.job
        return Kind(
            place=(job.toolchain, job.python, job.environment),
            build=identity.toolchain.fingerprint,
            make=lambda folder: toolchain.warm(job, folder=folder),
            holds=lambda: self.identifier.recheck_thoroughly(identity),
        )

    def _log(self, key: str) -> Path:
        """Where the log of a key's newest compile goes; the oldest logs go when there are many."""
        try:
            self.logs.mkdir(mode=0o700, exist_ok=True)
            old = sorted(self.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for path in old[: max(0, len(old) - LOGS_KEPT + 1)]:
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("compiler logs can't be kept in %s: %s", self.logs, error)
        return self.logs / f"{key}.log"


def _about(
    order: Order,
    outcome: Outcome,
    *,
    started: float,
    stages: dict[str, float],
    degraded: tuple[str, ...],
    apart: KernelRecord,
) -> About:
    identity = order.identity
    facts = identity.toolchain
    return About(
        suffix=identity.suffix,
        toolchain=ToolchainRecord(
            name=facts.name,
            fingerprint=facts.fingerprint,
            interpreter=facts.python,
            versions=dict(facts.versions),
        ),
        parts={part.name: PartRecord(sha256=part.sha256, value=part.value) for part in identity.parts},
        target=identity.job.device,
        system_lib_prefix=identity.result_prefix,
        model=ModelRecord(path=order.model_path, type=identity.model_type, quantization=identity.quantization),
        device=order.device,
        compile=CompileRecord(
            seconds=round(outcome.seconds, 3),
            peak_memory=outcome.peak_memory,
            cores=order.cores,
            started=started,
            log=os.fspath(outcome.log_path),
            stages=stages,
            kernels=apart,
        ),
        degraded=degraded,
        config=_kept(identity.job.config),
    )


def _kept(config: bytes) -> str:
    """A config as a manifest keeps it, which has a bound of its own."""
    return "" if len(config) > CONFIG_KEPT_BYTES else config.decode()
