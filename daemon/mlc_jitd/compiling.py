"""One compile: the compiler is run in a staging folder, its outcome is judged, and its library is published.

What is asked, whether it is there already, and the key's lock are ``work``'s business.
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

from mlc_jit.errors import CompileError, StoreFullError
from mlc_jitd.build import JobGroups, Kind, Limits, Outcome, StopSignal, WarmCompilers, run
from mlc_jitd.headway import Stopwatch
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.jobs import Settings as QueueSettings
from mlc_jitd.store import (
    About,
    CompileRecord,
    Entry,
    KernelRecord,
    ModelRecord,
    PartRecord,
    Store,
    ToolchainRecord,
)
from mlc_jitd.toolchains import kernels
from mlc_jitd.toolchains.base import Stage, Toolchain
from mlc_jitd.verdicts import require_success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jit.messages import JitRequest
    from mlc_jitd.acceleration import Acceleration
    from mlc_jitd.identity import Identifier, Identity
    from mlc_jitd.schedule.host import Capacity

logger = logging.getLogger(__name__)

STAGING_BYTES = 256 << 20
"""Room that a build is promised on the cache's disk: the library, its objects and temporary files."""

LOGS_KEPT = 256

CONFIG_KEPT_BYTES = 128 << 10
"""A longer config is not kept beside its library; real ones have 2 to 5 KB."""

TOOLCHAIN_CHANGED = "toolchain-changed"

LOADING = "loading"
"""The stage in which a warm compiler is only being imported; no part of a compile."""

Report = Callable[[Stage], None]


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

    @classmethod
    def alone(cls, identity: Identity, request: JitRequest, host: Capacity, *, cores_per_job: int) -> Order:
        """What a process orders that compiles for one request, with no queue that would say what it may use.

        Args:
            identity: What the request comes to.
            request: What was asked, just now.
            host: What there is; all of its memory, and the cores of one compile of several, are taken.
            cores_per_job: The setting; 0 for what the host suggests.
        """
        return cls(
            identity=identity,
            model_path=request.model_path,
            device=request.device,
            redo=request.policy == "REDO",
            asked_at=time.time(),
            cores=slots(host, QueueSettings(cores_per_job=cores_per_job or None)).cores,
            memory=host.memory_total or None,
            background=request.prewarm,
            accelerated=request.acceleration != "off",
        )


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


class Compiler:
    """Compiles, one job a call; from any thread.

    Args:
        identifier: Knows whether a toolchain is what it was.
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
        self._identifier = identifier
        self._store = store
        self._toolchain = toolchain
        self._total = total
        self._silence = silence
        self._warm = warm
        self._groups = groups
        self._owner = owner
        self._logs = store.layout.logs
        self.acceleration = acceleration
        self.make_room: Callable[[int], bool] = lambda _need: False
        """Collects until so many bytes are free on the cache's disk; whether anything went."""

    def limit(self, *, total: float, silence: float) -> None:
        """Other limits, for compiles that begin from now on; arguments as of the class."""
        self._total, self._silence = total, silence

    def counters(self) -> dict[str, int]:
        """What the kernels' store and the warm compilers counted."""
        apart = {} if self.acceleration is None else self.acceleration.store.counters()
        warm = {} if self._warm is None else self._warm.counters()
        return {**apart, **warm}

    def close(self) -> None:
        """End the warm compilers, when no compile runs any more."""
        if self._warm is not None:
            self._warm.close()

    def acceleration_for(self, identity: Identity, *, wanted: bool) -> Acceleration | None:
        """What compiles its kernels apart, if that is wanted and may be possible."""
        acceleration = self.acceleration if wanted else None
        return acceleration if acceleration is not None and acceleration.takes(identity.toolchain) else None

    def compile(self, order: Order, report: Report, stop: StopSignal) -> Entry:
        """Compile and publish; who calls holds the key's lock.

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
            if not self._identifier.recheck_thoroughly(identity):
                raise CompileError(
                    "The compiler was changed while it ran, so its result can't be trusted and was discarded.",
                    remedy="Ask again.",
                    reason=TOOLCHAIN_CHANGED,
                    key=identity.key,
                )
            report(Stage("publish"))
            record = KernelRecord() if acceleration is None else acceleration.settle(staging, identity)
            about = _about(order, outcome, started=started, stages=stages, degraded=tuple(degraded), apart=record)
            return self._store.publish(identity.key, output, about)

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
                folder = stack.enter_context(self._store.staging(key, need=STAGING_BYTES))
            except StoreFullError:
                if not self.make_room(2 * STAGING_BYTES):
                    raise
                folder = stack.enter_context(self._store.staging(key, need=STAGING_BYTES))
            yield folder

    def _kind(self, identity: Identity, toolchain: Toolchain) -> Kind:
        """Which warm compiler serves an identity."""
        job = identity.job
        return Kind(
            place=(job.toolchain, job.python, job.environment),
            build=identity.toolchain.fingerprint,
            make=lambda folder: toolchain.warm(job, folder=folder),
            holds=lambda: self._identifier.recheck_thoroughly(identity),
        )

    def _log(self, key: str) -> Path:
        """Where the log of a key's newest compile goes; the oldest logs go when there are many."""
        try:
            self._logs.mkdir(mode=0o700, exist_ok=True)
            old = sorted(self._logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for path in old[: max(0, len(old) - LOGS_KEPT + 1)]:
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("compiler logs can't be kept in %s: %s", self._logs, error)
        return self._logs / f"{key}.log"


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
