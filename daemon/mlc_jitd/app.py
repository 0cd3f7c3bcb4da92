"""The composition root: builds the objects, runs them, drains them. No logic."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit._version import __version__
from mlc_jit.locations import Locations, locate
from mlc_jit.messages import Heartbeat
from mlc_jitd import activation, recollection
from mlc_jitd.acceleration import Acceleration
from mlc_jitd.asks import Asks
from mlc_jitd.broker import Broker
from mlc_jitd.build import JobGroups, WarmCompilers, end_leftovers_soon, owner_of
from mlc_jitd.compiling import Compiler
from mlc_jitd.config import Settings, gather
from mlc_jitd.deaths import Deaths
from mlc_jitd.door import PEEK_SECONDS, Door
from mlc_jitd.engine import Engine
from mlc_jitd.explaining import Explaining
from mlc_jitd.gauge import Gauge
from mlc_jitd.housekeeper import Housekeeper
from mlc_jitd.identity import Identifier
from mlc_jitd.idle import Idle
from mlc_jitd.lending import Lending
from mlc_jitd.life import Life
from mlc_jitd.likeness import Likeness
from mlc_jitd.membership import Membership
from mlc_jitd.naming import Naming
from mlc_jitd.observe import History, Live, Recorder
from mlc_jitd.reload import Reload
from mlc_jitd.rounds import Rounds
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.capacity.cgroups import Groups
from mlc_jitd.schedule.jobs import Settings as QueueSettings
from mlc_jitd.schedule.queue import Queue
from mlc_jitd.server import Server
from mlc_jitd.service import Service
from mlc_jitd.signals import Signals
from mlc_jitd.store import Collector, KernelStore, LayeredStore, Leases, Store, Uses, layers_of
from mlc_jitd.system import System
from mlc_jitd.toolchains import toolchain
from mlc_jitd.watch import Watcher
from mlc_jitd.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from mlc_jit.errors import JitError
    from mlc_jitd.metrics import Metrics

logger = logging.getLogger(__name__)

TAKEOVER_SECONDS = 60.0
"""How long a daemon that the service manager started waits for one that a client started before."""

ROOT = Path("/")


def make_work(
    home: Path,
    settings: Settings,
    *,
    leases: Leases | None = None,
    warm: WarmCompilers | None = None,
    groups: JobGroups | None = None,
) -> Work:
    """Identity, store and toolchains over one home, opened; who gives warm compilers calls `Work.close`.

    What compiles of a daemon that was killed with its supervisors left behind is ended, beside everything else.

    Raises:
        StoreUnwritableError: The home can't be used at all. One that can only be read is no error: hits are served.
    """
    end_leftovers_soon(home)
    store = LayeredStore(home, layers_of(settings.layers), leased=leases.held if leases else frozenset)
    report = store.open()
    for warning in report.warnings:
        logger.warning("%s", warning)
    store.survey()
    identifier = Identifier(store.layout.library / ".identity", resolve_seconds=settings.resolve_seconds)
    compiler = Compiler(
        identifier,
        store,
        toolchain,
        total=settings.compile_seconds,
        silence=settings.silence_seconds,
        warm=warm,
        groups=groups,
        owner=owner_of(home),
        acceleration=_acceleration(store, settings),
    )
    return Work(identifier, store, compiler)


def _acceleration(store: Store, settings: Settings) -> Acceleration | None:
    if settings.acceleration == "off":
        return None
    return Acceleration(KernelStore(store.layout.library, limit=settings.kernel_bytes))


def run(
    *,
    ready: Callable[[], None] = lambda: None,
    log_path: str = "",
    flags: Mapping[str, str] | None = None,
    on_demand: bool = False,
) -> None:
    """Serve until drained. SIGTERM drains; SIGINT, or a second SIGTERM, also ends running compiles.

    Args:
        ready: Called when the socket is served.
        log_path: Where this process logs to, if that is a file.
        flags: Settings of the command line, which beat all others.
        on_demand: Whoever needs a daemon starts one, so this one may end when it has been idle for long.

    Raises:
        JitError: The daemon could not start; another one may be running.
    """
    settings = Settings.load(flags=flags, strict=False)
    system = System.of(settings, flags)
    places = locate()
    door, service, passed = Door(places, everybody=system is not None), Service(places.home), activation.take()
    # Who runs already sees that its socket's path was taken, and makes way.
    door.lock(patience=TAKEOVER_SECONDS if passed else PEEK_SECONDS, waiting=service.waiting)
    try:
        gauge = Gauge(capacity.read)
        groups = _groups(settings)
        leases = Leases(places.leases, deaths=Deaths())
        leases.revive()
        warm = _warm(settings, gauge, groups, owner_of(places.home))
        work = make_work(places.home, settings, leases=leases, warm=warm, groups=groups)
        lending = Lending(leases, Uses(work.store.layout.used))
        broker, queue = Broker(backoff=settings.backoff_seconds), _queue(settings, system)
        engine = Engine(
            work,
            broker,
            queue,
            gauge=gauge,
            likeness=(likeness := Likeness()),
            places=places,
            log_path=log_path,
            drain_seconds=settings.drain_seconds,
            lend=lending.lend,
        )
        asks = Asks(work.store.layout.library)
        keeper = _housekeeper(engine, work, lending, asks, settings)
        keeper.probe = lambda connection: server.send(connection, Heartbeat())
        recorder = _recorder(engine, work)
        queue.measure(gauge.now())
        metrics = _live(engine, Live(engine, queue, gauge, recorder, lending), work, settings)
        watcher = _watcher(engine, work, asks, settings)
        idle = Idle(on_demand, settings.idle_seconds, wanted=lambda: server.connected() > 0)
        life = Life(engine, door, service, idle, lambda: server.counters["messages"])
        rounds = _rounds(engine, life, keeper, watcher)
        server = Server(
            door.adopt(passed) if passed else door.bind(),
            engine.handle,
            memory=engine.memory,
            gone=engine.gone,
            tick=_tick(life, rounds),
            away=leases.disconnected,
            guard=system.guard if system is not None else None,
            ended=engine.nudge,
        )
        engine.open(server)
        explaining = _explaining(engine, work)
        more_takers = {} if system is None else system.open(engine, work, asks)
        naming = _naming(engine, work, settings)
        fleet = _fleet(engine, work, settings)
        engine.retire = life.retire
        recollection.begin(work, likeness, engine.overview)
        try:
            takers = _takers(engine, broker, queue, work, keeper=keeper, idle=idle) | more_takers
            _signals(engine, Reload(settings, partial(gather, flags=flags), takers))
            for each in (server, watcher, recorder, rounds, keeper):
                each.start()
            logger.info("mlc-jitd %s serves %s at %s", __version__, places.home, places.socket)
            ready()
            service.ready()
            with Signals(engine.nudge):
                engine.serve()
        finally:
            for room in (metrics, rounds, watcher, naming, fleet, explaining, server, recorder, keeper, work):
                room.close()
    finally:
        door.retire()
    logger.info("stopped")


def _naming(engine: Engine, work: Work, settings: Settings) -> Naming:
    naming = Naming(work.upstream)
    if settings.upstream_names and settings.mode == "user":  # who calls upstream's own `jit()` looks in another home
        engine.onlookers.append(naming)
        engine.addenda.append(naming.complete)
        naming.start()
    return naming


def _fleet(engine: Engine, work: Work, settings: Settings) -> Membership:
    fleet = Membership(settings, work)
    fleet.follow(engine)
    return fleet


def _live(engine: Engine, live: Live, work: Work, settings: Settings) -> Metrics | contextlib.ExitStack:
    """Status and top; metrics, if they are wanted: else nothing of them is imported."""
    engine.onlookers.append(live)
    engine.addenda.append(live.complete)
    engine.verbs[m.TopRequest] = live.asked
    if not (settings.metrics or settings.metrics_textfile):
        return contextlib.ExitStack()
    from mlc_jitd.metrics import Metrics  # noqa: PLC0415 - prometheus-client takes some MB

    return Metrics(settings, engine, live, work.store)


def _recorder(engine: Engine, work: Work) -> Recorder:
    history = History(work.store.layout.library)
    recorder = Recorder(history, hits=engine.remembered_hits, later=engine.later, reply=engine.reply)
    engine.onlookers.append(recorder)
    engine.verbs[m.RecordsRequest] = recorder.asked
    return recorder


def _groups(settings: Settings) -> JobGroups:
    groups = JobGroups.open(settings.cgroup, Groups(ROOT).of("cpu"))
    if groups.places:
        logger.info("compiles get control groups in %s", ", ".join(str(place.folder) for place in groups.places))
    if groups.why:
        level = logging.INFO if settings.cgroup in {"auto", "own", "off"} else logging.WARNING
        logger.log(level, "control groups for compiles: %s", groups.why)
    return groups


def _warm(settings: Settings, gauge: Gauge, groups: JobGroups, owner: str) -> WarmCompilers | None:
    if not settings.warm:
        return None
    return WarmCompilers(
        most=settings.warm,
        idle=settings.warm_idle_seconds,
        memory_free=lambda: gauge.now().memory_available,
        groups=groups,
        owner=owner,
    )


def _housekeeper(engine: Engine, work: Work, lending: Lending, asks: Asks, settings: Settings) -> Housekeeper:
    keeper = Housekeeper(lending, Collector(work.store, lending.leases, lending.uses), asks, settings)
    work.compiler.make_room = keeper.make_room
    engine.cache_report = keeper.report
    engine.addenda.append(keeper.complete)
    engine.onlookers.append(keeper)
    return keeper


def _queue(settings: Settings, system: System | None) -> Queue:
    return Queue(_queue_settings(settings)) if system is None else system.queue(_queue_settings(settings))


def _queue_settings(settings: Settings) -> QueueSettings:
    """The administrator's figures as the queue wants them."""
    return QueueSettings(
        jobs=settings.jobs or None,
        cores_per_job=settings.cores_per_job or None,
        max_queued=settings.max_queued,
        user_jobs=settings.user_jobs if settings.mode == "system" else 0,
    )


def _watcher(engine: Engine, work: Work, asks: Asks, settings: Settings) -> Watcher:
    watcher = Watcher(engine, work, asks, listed=[Path(each) for each in settings.prewarm.split(":") if each])
    engine.onlookers.append(watcher)
    engine.addenda.append(watcher.complete)
    engine.verbs[m.Keep] = watcher.keep
    engine.verbs[m.WatchRequest] = watcher.subscribers.add
    return watcher


def _explaining(engine: Engine, work: Work) -> Explaining:
    explaining = Explaining(work, engine.reply)
    engine.verbs[m.Explain] = explaining.asked
    return explaining


def _tick(life: Life, rounds: Rounds) -> Callable[[], float]:
    def tick() -> float:
        rounds.check()
        return life.tick()

    return tick


def _rounds(engine: Engine, life: Life, keeper: Housekeeper, watcher: Watcher) -> Rounds:
    """What can hang comes last."""
    engine.rest = life.pace
    rounds = Rounds()
    for call in (life.look_around, keeper.reap, watcher.glance, life.look_at_installation):
        rounds.add(call)
    return rounds


def _takers(
    engine: Engine, broker: Broker, queue: Queue, work: Work, *, keeper: Housekeeper, idle: Idle
) -> dict[str, Callable[[Settings], None]]:
    """How each live setting takes effect."""

    def figures(settings: Settings) -> None:
        queue.change(_queue_settings(settings))

    def limits(settings: Settings) -> None:
        work.compiler.limit(total=settings.compile_seconds, silence=settings.silence_seconds)

    def patience(settings: Settings) -> None:
        engine.drain_seconds = settings.drain_seconds
        broker.backoff = settings.backoff_seconds

    def rest(settings: Settings) -> None:
        idle.seconds = settings.idle_seconds

    def bounds(settings: Settings) -> None:
        keeper.take(settings)

    return {
        "jobs": figures,
        "cores_per_job": figures,
        "max_queued": figures,
        "user_jobs": figures,
        "compile_seconds": limits,
        "silence_seconds": limits,
        "drain_seconds": patience,
        "backoff_seconds": patience,
        "idle_seconds": rest,
        "max_size": bounds,
        "min_free": bounds,
        "max_age_days": bounds,
        "stale_days": bounds,
        "grace_seconds": bounds,
        "collect_seconds": bounds,
    }


def _signals(engine: Engine, reload: Callable[[], None]) -> None:
    """The engine's thread is the main one, so a handler may only post."""
    seen = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        engine.drain(now=number == signal.SIGINT or seen > 1)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGHUP, lambda _number, _frame: engine.in_turn(reload))


def explain_failure(error: JitError, places: Locations | None) -> None:
    """Leave the reason for not starting where the client that started us looks."""
    sys.stderr.write(f"mlc-jitd: {error}\n")
    if places is not None:
        facts = {"kind": error.kind, "message": error.message, **error.facts(), "pid": os.getpid()}
        try:
            places.start_error.write_text(json.dumps(facts))
        except OSError:
            return
