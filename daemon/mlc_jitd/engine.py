"""Carries out the broker's instructions: one thread, one small handler for each event and each instruction.

Events come from the server's thread, from look-ups and from jobs; each is a call that waits in one inbox. Nothing here
decides who gets what (``broker``), who runs when (``schedule``), or how a library is made (``work``).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import queue
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from mlc_jit import messages as m
from mlc_jit.errors import CompileError, CompileOutOfMemoryError, JitError, RequestError
from mlc_jitd import broker as b
from mlc_jitd.answers import Answers, Frames, result
from mlc_jitd.headway import Headway
from mlc_jitd.jobs import Asking, JobState, carry_out, demand_of, job_row
from mlc_jitd.overview import Overview
from mlc_jitd.reports import cannot, error_of, internal, place, stopgap_result, trouble_of
from mlc_jitd.schedule.jobs import Accepted
from mlc_jitd.server import Peer
from mlc_jitd.store import Entry, Found
from mlc_jitd.work import LOADING, LOCKED, TOOLCHAIN_CHANGED, Built, LookUp, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from mlc_jit.locations import Locations
    from mlc_jitd.gauge import Gauge
    from mlc_jitd.identity import Identity
    from mlc_jitd.likeness import Likeness
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.schedule.queue import Queue
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.upstream import Stopgap

logger = logging.getLogger(__name__)

LOOKUP_THREADS = 16
"""They wait for interpreters and compilers to answer, and for the disk, more than they work."""
ADMIT_SECONDS = 2.0
"""How often the queue is asked while something waits: what others on the host use changes without a word."""

TELL_SECONDS = 1.0
"""How often those who wait for a running compile hear how far it is."""

LATE_SECONDS = 30.0
"""How long after its time a draining daemon waits for what should have ended; then it ends all the same."""

IDLE_SECONDS = 1.0
"""How long nothing may happen. A signal that comes just before this thread begins to wait does not end the wait, and
its handler runs in this thread: with no limit, SIGTERM was now and then (seen once in some 100) not heard at all."""


class Replies(Protocol):
    """Where answers go: the server."""

    def send(self, identity: bytes, message: m.Message) -> None:
        """Queue a reply for a connection."""

    @property
    def counters(self) -> Counter[str]:
        """What the socket saw."""

    def alive(self) -> bool:
        """Whether anybody still takes replies."""


class Onlooker:
    """A room that follows what the engine does. Each method is called in the engine's thread, so it must be quick."""

    def looked_up(self, peer: Peer, request: m.JitRequest, found: LookUp) -> None:
        """A request was looked up; the first time that it is asked, and whenever it is no remembered hit."""

    def published(self, identity: Identity, entry: Entry) -> None:
        """A library was compiled here."""

    def gone(self, identity: bytes) -> None:
        """A connection that waited is no more."""


class Engine:
    """See the module's docstring.

    Args:
        work: Looks up and compiles.
        broker: Decides.
        jobs: Orders and admits.
        gauge: What the host has.
        likeness: Remembers what compiles took.
        places: For the greeting and the status.
        log_path: The daemon's log file, if it has one.
        drain_seconds: How long running jobs may go on once the daemon drains.
        lend: Told who gets an entry, by connection and pid, before the last look at it.
    """

    def __init__(
        self,
        work: Work,
        broker: b.Broker,
        jobs: Queue,
        *,
        gauge: Gauge,
        likeness: Likeness,
        places: Locations,
        log_path: str,
        drain_seconds: float,
        lend: Callable[[bytes, int, Entry], None] = lambda _connection, _pid, _entry: None,
    ) -> None:
        self._work = work
        self._broker = broker
        self._queue = jobs
        self._gauge = gauge
        self._likeness = likeness
        self.overview = Overview(
            work.store, places, log_path, kernels=work.acceleration.store if work.acceleration is not None else None
        )
        self.drain_seconds = drain_seconds
        self._lend = lend
        self._answers = Answers(work.store.unchanged, work.identifier.recheck, lend)
        self._frames = Frames(self._answers)
        self._inbox: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        # Apart: whoever looks after a daemon must not wait behind interpreters that are slow to answer.
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="overview")
        self._asking: dict[b.Asker, Asking] = {}
        self._jobs: dict[str, JobState] = {}
        self._entries: dict[str, Entry] = {}
        self._begun = time.monotonic()
        self._drain_by: float | None = None
        self._next_admit = self._next_tell = 0.0
        self._replies: Replies | None = None
        self.counters: Counter[str] = Counter()
        self._remembered_hits = 0  # counted in the server's thread, all else in this one
        self._inner: dict[bytes, Callable[[m.Message], None]] = {}
        self._inner_ids = itertools.count()
        self._over = False
        self.pulse = time.monotonic()
        """When this thread last took its turn: it does so every second, unless it hangs."""
        self.onlookers: list[Onlooker] = []
        """Who follows what happens; filled before ``serve``."""
        self.verbs: dict[type[m.Message], Callable[[Peer, Any], None]] = {}
        """Further requests, and who answers them (``reply``): called in the server's thread, so quick, or ``later``."""
        self.cache_report: Callable[[], m.CacheReport | None] = lambda: None
        """What bounds the cache, for the status; may read files."""
        self.addenda: list[Callable[[m.Message], m.Message]] = []
        """What other rooms add to a status or a listing; called in a thread."""
        self.retire: Callable[[], None] = lambda: None
        """Called once when the daemon begins to drain: gives its place to a successor."""

    def serve(self, replies: Replies) -> None:
        """Run until drained. Call it in a thread of its own, or in the main one."""
        self._replies = replies
        while not self._drained():
            self.pulse = time.monotonic()
            self._turn(self._patience())
        self._over = True
        while not self._inbox.empty():  # who asked just now is sent to the next daemon
            self._turn(0.0)
        for pool in (self._lookups, self._looks):
            pool.shutdown(wait=False, cancel_futures=True)

    def _turn(self, patience: float) -> None:
        try:
            handler, arguments = self._inbox.get(timeout=patience)
        except queue.Empty:
            handler, arguments = _nothing, ()
        try:
            handler(*arguments)
            self._on_time()
        except Exception:
            self.counters["engine_errors"] += 1
            logger.exception("an event could not be handled: %s", handler.__name__)

    # --- called from other threads ----------------------------------------------------------------------------------

    def handle(self, peer: Peer, message: m.Message) -> m.Message | None:
        """The server's handler: answers what needs no work at once, and takes the rest in."""
        match message:
            case m.JitRequest():
                return self._recall(peer, message)
            case m.Hello():
                return self.overview.welcome(message)
            case m.Leave():
                self._post(self._left, (peer.identity, message.id), message.cancel)
            case m.Cancel():
                self._post(self._cancel, peer, message)
            case m.StatusRequest():
                self._post(self._status, peer, message.id)
            case m.ListRequest():
                self._post(self._list, peer, message.id)
            case m.StopRequest():
                self._post(self._stop, peer, message)
            case _ if type(message) in self.verbs:
                self.verbs[type(message)](peer, message)
            case _:
                return m.Unsupported(id=message.id, asked=message.verb, features=m.FEATURES)
        return None

    def _recall(self, peer: Peer, request: m.JitRequest) -> m.Result | None:
        answer = self._answers.recall(peer.identity, peer.pid, request)
        if answer is None:
            self._post(self._asked, peer, request)
            return None
        self._remembered_hits += 1
        asker = (peer.identity, request.id)
        if asker in self._asking:  # sent again, and meanwhile the answer is known
            self._post(self._left, asker, False)
        return answer

    def quick(self, peer: Peer, frame: bytes) -> tuple[int, bytes] | None:
        """The id and the bytes of the reply to a request whose bytes are known; in the server's thread."""
        found = self._frames.reply(peer.identity, peer.uid, peer.pid, frame)
        if found is not None:
            self._remembered_hits += 1
            if self._asking and (peer.identity, found[0]) in self._asking:
                self._post(self._left, (peer.identity, found[0]), False)
        return found

    def learn(self, peer: Peer, frame: bytes, request: m.JitRequest) -> None:
        """A request was answered at once: its bytes may be known from now on. In the server's thread."""
        self._frames.learn(peer.uid, frame, request)

    def gone(self, identity: bytes) -> None:
        """A connection that waited is no more."""
        self._post(self._gone, identity)

    def ask(self, request: m.JitRequest, done: Callable[[m.Result | m.Failure], None]) -> None:
        """Ask for a library on the daemon's own behalf.

        Args:
            request: What a client would send.
            done: Gets the answer, in the engine's thread.
        """
        peer = Peer(b"\0\0inner%d" % next(self._inner_ids), os.getuid(), os.getgid(), os.getpid())

        def replied(message: m.Message) -> None:
            if isinstance(message, m.Result | m.Failure):
                del self._inner[peer.identity]
                done(message)

        self._inner[peer.identity] = replied
        self._post(self._asked, peer, request)

    def later(self, task: Callable[[], None]) -> None:
        """Run something that takes time: one such task at a time, in a thread; what it raises is logged."""
        self._looks.submit(_logged, task)

    def in_turn(self, task: Callable[[], None]) -> None:
        """Run something quick in the engine's thread."""
        self._post(task)

    def reply(self, peer: Peer, message: m.Message) -> None:
        """Send a message to whoever asked; from any thread."""
        self._send(peer.identity, message)

    def forget(self, keys: Collection[str]) -> None:
        """Answer the next requests for these keys the long way, so that they are looked up; from any thread."""
        self._answers.forget(keys)

    def drain(self, *, now: bool = False) -> None:
        """Start no more compiles and end when the running ones have; with ``now``, end those too."""
        self._post(self._drain, now)

    def load(self) -> tuple[int, int]:
        """How many compiles run, and how many are queued; from any thread."""
        states = [job.state for job in list(self._broker.jobs.values())]
        queued = states.count("queued")
        return len(states) - queued, queued

    def busy(self) -> bool:
        """Whether anything is asked, queued or running; from any thread."""
        return bool(self._jobs or self._asking) or not self._inbox.empty()

    def leave_if_idle(self) -> None:
        """Drain, unless somebody has asked for something by now."""
        self._post(self._leave_if_idle)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _asked(self, peer: Peer, request: m.JitRequest) -> None:
        asker = (peer.identity, request.id)
        if asker in self._asking:
            return  # sent again by a client that was not sure: it is waiting already
        self.counters["requests"] += 1
        self._asking[asker] = asking = Asking(peer, request, time.time())
        if self._over:
            self._fail(asker, error_of(b.draining(), ""))
            return
        self._look_up(asker, asking)

    def _look_up(self, asker: b.Asker, asking: Asking) -> None:
        def task() -> None:
            try:
                found = self._work.look_up(asking.request)
            except JitError as error:
                self._post(self._refused, asker, error)
            except Exception as error:
                logger.exception("a look-up failed")
                self._post(self._refused, asker, internal(error))
            else:
                self._post(self._looked_up, asker, found)

        if asking.request.policy == "OFF":
            self._do([b.Refuse(asker, b.disabled())])
        else:
            try:
                self._lookups.submit(task)
            except RuntimeError as error:  # no thread to be had
                self._refused(asker, internal(error))

    def _looked_up(self, asker: b.Asker, found: LookUp) -> None:
        asking = self._asking.get(asker)
        if asking is None:
            return
        key, request = found.identity.key, asking.request
        hit = isinstance(found.answer, Found)
        reason = "" if isinstance(found.answer, Found) else found.answer.reason
        if isinstance(found.answer, Found):
            self._entries[key] = found.answer.entry
        else:
            self.counters[f"misses_{reason}"] += 1
        if found.why:
            logger.info("miss (%s) %s for %s: %s", reason or "redo", key[:12], request.model_path, found.why)
        asking.identity, asking.why = found.identity, found.why
        for onlooker in self.onlookers:
            onlooker.looked_up(asking.peer, request, found)
        if found.stopgap is not None:
            self._hand_out(asker, found.identity, found.stopgap)
            return
        instructions = self._broker.asked(
            asker,
            key=key,
            policy=request.policy,
            hit=hit,
            reason=reason,
            now=time.monotonic(),
            interactive=not request.prewarm,
            why=found.why,
        )
        self._do(instructions)
        self._forget(key)

    def _hand_out(self, asker: b.Asker, identity: Identity, stopgap: Stopgap) -> None:
        """Upstream's own file, where compiling is forbidden."""
        del self._asking[asker]
        self.counters["stopgaps"] += 1
        logger.warning("%s: %s", identity.key[:12], stopgap.warning)
        self._send(asker[0], stopgap_result(asker[1], identity, stopgap))

    def _refused(self, asker: b.Asker, error: JitError) -> None:
        if asker in self._asking:
            self._fail(asker, error)

    def _left(self, asker: b.Asker, cancel: bool) -> None:
        self._asking.pop(asker, None)
        self._do(self._broker.left(asker, cancel=cancel))

    def _gone(self, identity: bytes) -> None:
        for asker in [asker for asker in self._asking if asker[0] == identity]:
            self._left(asker, cancel=False)
        for onlooker in self.onlookers:
            onlooker.gone(identity)

    def _cancel(self, peer: Peer, message: m.Cancel) -> None:
        keys = self._broker.match(message.key)
        if len(keys) != 1:
            what = "no running or queued compile has" if not keys else f"{len(keys)} compiles have"
            error = RequestError(
                f"{what} a key that begins with {message.key[:64]!r}.", remedy="`mlc-jit status` lists them."
            )
            self._send(peer.identity, m.Failure.of(error, id=message.id))
            return
        self._do(self._broker.cancelled(keys[0]))
        self._send(peer.identity, m.Cancelled(id=message.id, key=keys[0]))

    def _stop(self, peer: Peer, message: m.StopRequest) -> None:
        self._send(peer.identity, m.Stopping(id=message.id, pid=os.getpid(), jobs=self._running()))
        self._drain(message.now)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _advanced(self, key: str, stage: Stage, now: float) -> None:
        """A compile has come to a stage. How far it is says nothing while it has not begun."""
        state = self._jobs.get(key)
        if state is None:
            return
        if stage.name not in (LOCKED, LOADING):
            state.headway.enter(stage.name, now)
        self._tell_place(key, state, stage.name, stage.detail, now)

    def _tell_place(self, key: str, state: JobState, stage: str, detail: str, now: float) -> None:
        where = state.headway.at(now)
        step = b.Step(stage, detail, where.fraction, where.left, now - state.submitted)
        self._do(self._broker.advanced(key, step))

    def _built(self, key: str, built: Built) -> None:
        state = self._jobs[key]
        self._entries[key] = built.entry
        self._answers.forget({key})  # what other questions were told of this key is not the newest any more
        self._queue.finished(key, time.monotonic())
        record = built.entry.manifest.compile
        if built.compiled:
            self.counters["compiles"] += 1
            self._likeness.learn(built.entry.manifest)
            logger.info("compiled %s in %.1f s for %s", key[:12], record.seconds, state.asking.request.model_path)
            for onlooker in self.onlookers:
                onlooker.published(state.identity, built.entry)
        self._do(self._broker.finished(key, compiled=built.compiled))
        self._ended(key)

    def _failed(self, key: str, error: JitError) -> None:
        state = self._jobs[key]
        now = time.monotonic()
        if isinstance(error, CompileOutOfMemoryError) and not state.retried and self._queue.retry(key, now):
            state.retried = True
            state.headway.restart()
            logger.warning("%s ran out of memory; it will be tried once more, alone", key[:12])
            self._do(self._broker.requeued(key, b.Step("queued", "ran out of memory: once more, alone")))
            self._admit()
            return
        self._queue.finished(key, now)
        self.counters["failures"] += 1
        logger.warning("no library for %s: %s", key[:12], error.message)
        if error.reason == TOOLCHAIN_CHANGED:
            self._ask_again(key, error)
        remember = isinstance(error, CompileError) and error.reason != TOOLCHAIN_CHANGED
        self._do(self._broker.failed(key, trouble_of(error), now=now, remember=remember))
        self._ended(key)

    def _ask_again(self, key: str, error: JitError) -> None:
        """The compiler was replaced while it ran: who waited is looked up anew, once, and gets the new compiler's."""
        for asker in self._broker.waiters(key):
            asking = self._asking.get(asker)
            if asking is not None and not asking.again:
                self._do(self._broker.left(asker))
                asking.again = True
                self._look_up(asker, asking)
        logger.info("asking again: %s", error.message)

    def _ended(self, key: str) -> None:
        self._forget(key)
        self._admit()

    def _forget(self, key: str) -> None:
        if key not in self._broker.jobs:
            self._jobs.pop(key, None)
            self._entries.pop(key, None)

    def _admit(self) -> None:
        """Start whoever may, and tell the others their place."""
        now = time.monotonic()
        snapshot = self._queue.snapshot(now)
        if not snapshot.waiting:
            return
        admission = self._queue.admit(self._gauge.now(), now)
        for refused in admission.refused:
            self._do(self._broker.failed(refused.job, cannot(refused), now=now, remember=False))
            self._forget(refused.job)
        for grant in admission.granted:
            self._start(grant)
        for waiting in self._queue.snapshot(now).waiting:
            like = waiting.demand.estimate
            left = None if like is None or waiting.estimate is None else float(round(waiting.estimate + like))
            at = now - waiting.demand.submitted
            self._do(self._broker.advanced(waiting.demand.job, b.Step("queued", place(waiting), left=left, at=at)))

    def _start(self, grant: Grant) -> None:
        key = grant.job
        if grant.short:
            logger.warning("%s starts although the host lacks %s for it", key[:12], " and ".join(grant.short))
        job = self._broker.jobs[key]
        redo, background = job.redo, not job.interactive  # as they are now: others may have joined
        self._broker.started(key)
        state = self._jobs[key]
        total = self._gauge.now().memory_total

        def report(stage: Stage) -> None:
            self._post(self._advanced, key, stage, time.monotonic())

        def run() -> None:
            ended = carry_out(self._work, state, grant, report, redo=redo, background=background, memory_total=total)
            if isinstance(ended, Built):
                self._post(self._built, key, ended)
            else:
                self._post(self._failed, key, ended)

        try:
            threading.Thread(target=run, name=f"job-{key[:8]}", daemon=True).start()
        except RuntimeError as error:  # no thread to be had: a job like any other that failed
            logger.exception("a compile could not be started")
            self._post(self._failed, key, internal(error))

    # --- the broker's instructions ----------------------------------------------------------------------------------

    def _do(self, instructions: list[b.Instruction]) -> None:
        for each in instructions:
            match each:
                case b.Deliver():
                    self._deliver(each)
                case b.Refuse():
                    self._fail(each.asker, error_of(each.trouble, each.key))
                case b.Tell():
                    self._tell(each)
                case b.Enqueue():
                    self._enqueue(each)
                case b.Promote():
                    self._queue.promote(each.key)
                    self._jobs[each.key].stop.promote()
                case b.Withdraw():
                    self._queue.withdraw(each.key)
                    self._forget(each.key)
                case b.Kill():
                    self._jobs[each.key].stop.stop("cancelled")

    def _deliver(self, instruction: b.Deliver) -> None:
        asking = self._asking.get(instruction.asker)
        if asking is None or asking.identity is None:
            return
        identity = asking.identity
        entry = self._entries[instruction.key]
        if asking.peer.identity not in self._inner:
            self._lend(asking.peer.identity, asking.peer.pid, entry)
            # A library that was just made is protected by its age, even if another process has replaced it already.
            made = instruction.source != "hit" and os.path.lexists(entry.path)
            if not made and not self._work.store.still(entry):  # it was collected since it was found
                self._look_up(instruction.asker, asking)
                return
        del self._asking[instruction.asker]
        if instruction.source == "hit":
            self.counters["hits"] += 1
        if instruction.source == "joined":
            self.counters["joins"] += 1
        self._answers.remember(asking.request, identity, entry)
        plain = result(asking.request.id, identity, entry)
        reply = dataclasses.replace(plain, source=instruction.source, reason=instruction.reason)
        if instruction.source != "hit":
            reply = dataclasses.replace(reply, detail=asking.why)
        self._send(instruction.asker[0], reply)

    def _fail(self, asker: b.Asker, error: JitError) -> None:
        if self._asking.pop(asker, None) is not None:
            self.counters["refusals"] += 1
            self._send(asker[0], m.Failure.of(error, id=asker[1]))

    def _tell(self, instruction: b.Tell) -> None:
        state = self._jobs.get(instruction.key)
        step = instruction.step
        elapsed = step.at
        if elapsed is None:
            elapsed = time.monotonic() - state.submitted if state is not None else 0.0
        for identity, id_ in instruction.askers:
            asking = self._asking.get((identity, id_))
            if asking is not None and asking.request.progress:
                self._send(
                    identity,
                    m.Progress(
                        id=id_,
                        stage=step.stage,
                        detail=step.detail,
                        fraction=step.fraction,
                        left=step.left,
                        elapsed=elapsed,
                        key=instruction.key,
                    ),
                )

    def _enqueue(self, instruction: b.Enqueue) -> None:
        asking = self._asking[instruction.asker]
        assert asking.identity is not None, "a job for a request that was not looked up"
        capacity = self._gauge.now()
        apart = self._work.acceleration_for(asking.identity, wanted=asking.request.acceleration != "off") is not None
        like = self._likeness.of(asking.identity, apart=apart, cores=self._queue.cores(capacity))
        headway = Headway(dict(like.stages), like.seconds)
        self._jobs[instruction.key] = JobState(asking.identity, asking, time.monotonic(), like, headway)
        demand = demand_of(instruction.key, self._jobs[instruction.key], interactive=instruction.interactive)
        answer = self._queue.submit(demand, capacity)
        if isinstance(answer, Accepted):
            self._admit()
            return
        trouble = cannot(answer)
        self._do(self._broker.failed(instruction.key, trouble, now=time.monotonic(), remember=False))
        self._forget(instruction.key)

    # --- seeing -----------------------------------------------------------------------------------------------------

    def _status(self, peer: Peer, id_: int) -> None:
        now = time.monotonic()
        jobs = tuple(job_row(job, self._jobs[job.key], now) for job in self._broker.jobs.values())
        counters = self.counters + Counter(self._work.counters())
        if self._replies is not None:
            counters += self._replies.counters
        counters["hits"] += self._remembered_hits
        status = self.overview.status(
            id_,
            uptime=now - self._begun,
            draining=self._broker.draining,
            slots=self._queue.snapshot(now).slots.jobs,
            jobs=jobs,
            counters=dict(counters),
        )
        self._report(peer, id_, lambda: iter((dataclasses.replace(status(), cache=self.cache_report()),)))

    def _list(self, peer: Peer, id_: int) -> None:
        self._report(peer, id_, lambda: self.overview.listing(id_))

    def _report(self, peer: Peer, id_: int, make: Callable[[], Iterator[m.Message]]) -> None:
        """Answer with what reads the cache folder; where that can't be read, with the reason."""

        def task() -> None:
            try:
                for part in make():
                    self._send(peer.identity, self._completed(part))
            except JitError as error:
                self._send(peer.identity, m.Failure.of(error, id=id_))
            except Exception as error:
                logger.exception("a report could not be made")
                self._send(peer.identity, m.Failure.of(internal(error), id=id_))

        self.later(task)

    def _completed(self, message: m.Message) -> m.Message:
        for addendum in self.addenda:
            message = addendum(message)
        return message

    # --- life -------------------------------------------------------------------------------------------------------

    def _leave_if_idle(self) -> None:
        if self._drain_by is None and not self.busy():
            logger.info("nobody has wanted anything: ending")
            self._drain(now=False)

    def _drain(self, now: bool) -> None:
        if self._drain_by is None:
            logger.info("draining: %d running", self._running())
            self._drain_by = time.monotonic() + (0.0 if now else self.drain_seconds)
            self.retire()
            self._do(self._broker.drain())
        if now:
            self._drain_by = time.monotonic()
        self._tick()

    def _tick(self) -> None:
        self._admit()
        if self._drain_by is not None and time.monotonic() >= self._drain_by:
            for state in self._jobs.values():
                state.stop.stop("draining")
            for asker in [asker for asker in self._asking if not self._broker.waits(asker)]:
                self._fail(asker, error_of(b.draining(), ""))  # still being looked up

    def _on_time(self) -> None:
        """What time alone changes; after every event, so that a busy inbox does not keep it from happening."""
        now = time.monotonic()
        if now >= self._next_tell:
            self._next_tell = now + TELL_SECONDS
            for key, job in list(self._broker.jobs.items()):
                if job.state == "running" and job.step is not None:
                    self._tell_place(key, self._jobs[key], job.step.stage, job.step.detail, now)
        if now >= self._next_admit:
            self._next_admit = now + ADMIT_SECONDS
            self._tick()
        if self._replies is not None and not self._replies.alive() and self._drain_by is None:
            logger.critical("the server's thread has died: ending, so that a successor can serve")
            self._drain(now=True)

    def _drained(self) -> bool:
        if self._drain_by is None:
            return False
        late = time.monotonic() - self._drain_by > LATE_SECONDS
        return late or (not self._jobs and not self._asking)

    def _patience(self) -> float:
        return TELL_SECONDS if self._jobs or self._drain_by is not None else IDLE_SECONDS

    def _running(self) -> int:
        return sum(job.state != "queued" for job in self._broker.jobs.values())

    def _post(self, handler: Callable[..., None], *arguments: Any) -> None:
        self._inbox.put((handler, arguments))

    def _send(self, identity: bytes, message: m.Message) -> None:
        inner = self._inner.get(identity)
        if inner is not None:
            inner(message)
        elif self._replies is not None:
            self._replies.send(identity, message)


def _nothing() -> None:
    """No event came."""


def _logged(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:
        logger.exception("a task failed")
