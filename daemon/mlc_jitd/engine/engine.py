"""The whole of the engine: what other rooms and threads call, the thread's turns, the daemon's end.

Events come from the server's thread, from look-ups and from jobs; each is a call that waits in one inbox.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jitd import broker as b
from mlc_jitd.engine.inbox import Inbox
from mlc_jitd.engine.jobs import Jobs
from mlc_jitd.engine.ledger import Ledger
from mlc_jitd.engine.onlookers import Onlookers
from mlc_jitd.engine.outbox import Outbox
from mlc_jitd.engine.requests import Requests
from mlc_jitd.engine.views import Facts, Views
from mlc_jitd.overview import Overview
from mlc_jitd.reports import error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlc_jit.locations import Locations
    from mlc_jitd.engine.outbox import Replies
    from mlc_jitd.engine.requests import SecondLook
    from mlc_jitd.gauge import Gauge
    from mlc_jitd.likeness import Likeness
    from mlc_jitd.peers import Memory, Peer
    from mlc_jitd.schedule.queue import Queue
    from mlc_jitd.store import Entry
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)

ADMIT_SECONDS = 2.0
"""How often the queue is asked while something waits: what others on the host use changes without a word."""

TELL_SECONDS = 1.0
"""How often those who wait for a running compile hear how far it is."""

LATE_SECONDS = 30.0
"""How long after its time a draining daemon waits for what should have ended; then it ends all the same."""

IDLE_SECONDS = 10.0
"""How long nothing may happen, for those who watch whether this thread turns. Signals wake it (``signals``)."""


class Engine:
    """See the package's docstring.

    Args:
        work: Looks up and compiles.
        broker: Decides.
        queue: Orders and admits.
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
        queue: Queue,
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
        self.drain_seconds = drain_seconds
        apart = work.compiler.acceleration
        self.overview = Overview(work.store, places, log_path, kernels=apart.store if apart is not None else None)
        self.counters: Counter[str] = Counter()
        self.onlookers = Onlookers()
        """Who follows what happens; filled before ``serve``."""
        self.verbs: dict[type[m.Message], Callable[[Peer, Any], None]] = {}
        """Further requests, and who answers them (``reply``): called in the server's thread, so quick, or ``later``."""
        self.retire: Callable[[], None] = lambda: None
        """Called once when the daemon begins to drain: gives its place to a successor."""
        self.rest = IDLE_SECONDS
        """How long the engine's thread waits for something to happen, in seconds."""
        self._inbox = Inbox(self.counters)
        self._outbox = Outbox()
        self._ledger = Ledger(broker)
        self._requests = Requests(
            work,
            self._ledger,
            self._inbox,
            self._outbox,
            onlookers=self.onlookers,
            lend=lend,
            do=self._do,
            counters=self.counters,
        )
        self._jobs = Jobs(
            work,
            self._ledger,
            queue,
            self._inbox,
            gauge=gauge,
            likeness=likeness,
            onlookers=self.onlookers,
            replaced=lambda key: self.forget({key}),
            look_up_again=self._requests.look_up_again,
            do=self._do,
            counters=self.counters,
        )
        self._views = Views(self.overview, self._ledger, queue, self._outbox, counters=self._all_counters)
        self._drain_by: float | None = None
        self._next_admit = self._next_tell = 0.0

    def open(self, replies: Replies) -> None:
        """Say where answers go; before anybody can ask, which may be long before ``serve``."""
        self._outbox.open(replies)

    def serve(self) -> None:
        """Run until drained. Call it in a thread of its own, or in the main one."""
        while not self._drained():
            self._inbox.turn(self._patience(), self._on_time)
        self._requests.over()
        while not self._inbox.empty():  # who asked just now is sent to the next daemon
            self._inbox.turn(0.0, self._on_time)
        self._requests.close()
        self._views.close()

    # --- the server's thread ----------------------------------------------------------------------------------------

    def handle(self, peer: Peer, message: m.Message) -> m.Message | None:
        """The server's handler: answers what needs no work at once, and takes the rest in."""
        match message:
            case m.JitRequest():
                return self._requests.recall(peer, message)
            case m.Hello():
                return self.overview.welcome(message)
            case m.Leave():
                self._inbox.post(self._requests.left, (peer.identity, message.id), message.cancel)
            case m.Cancel():
                self._inbox.post(self._requests.cancel, peer, message)
            case m.StatusRequest():
                self._inbox.post(self._views.status, peer, message.id)
            case m.ListRequest():
                self._inbox.post(self._views.list, peer, message.id)
            case m.StopRequest():
                self._inbox.post(self._stop, peer, message)
            case _ if type(message) in self.verbs:
                self.verbs[type(message)](peer, message)
            case _:
                return m.Unsupported(id=message.id, asked=message.verb, features=m.FEATURES)
        return None

    @property
    def memory(self) -> Memory:
        """What the server asks before it decodes a frame."""
        return self._requests

    def gone(self, identity: bytes) -> None:
        """A connection that waited is no more."""
        self._inbox.post(self._requests.gone, identity)

    # --- other rooms, from any thread -------------------------------------------------------------------------------

    @property
    def pulse(self) -> float:
        """When the engine's thread last took its turn: it does so every ``rest`` seconds, unless it hangs."""
        return self._inbox.pulse

    def ask_elsewhere(self, second_look: SecondLook) -> None:
        """Have libraries that are not here asked for elsewhere, before a compile is thought of.

        Args:
            second_look: Given a look-up that found nothing, a callback, which gets it as it is or a better one, and
                another that is told how far a library is that comes.
                Called in a thread of a look-up, which it must not keep.
        """
        self._requests.second_look = second_look

    @property
    def cache_report(self) -> Callable[[], m.CacheReport | None]:
        """What bounds the cache, for the status; may read files."""
        return self._views.cache_report

    @cache_report.setter
    def cache_report(self, report: Callable[[], m.CacheReport | None]) -> None:
        self._views.cache_report = report

    @property
    def addenda(self) -> list[Callable[[m.Message], m.Message]]:
        """What other rooms add to a status or a listing; called in a thread."""
        return self._views.addenda

    def ask(self, request: m.JitRequest, done: Callable[[m.Result | m.Failure], None]) -> None:
        """Ask for a library on the daemon's own behalf.

        Args:
            request: What a client would send.
            done: Gets the answer, in the engine's thread.
        """
        self._inbox.post(self._requests.asked, self._outbox.own(done), request)

    def later(self, task: Callable[[], None]) -> None:
        """Run something that takes time: one such task at a time, in a thread; what it raises is logged."""
        self._views.later(task)

    def in_turn(self, task: Callable[[], None]) -> None:
        """Run something quick in the engine's thread."""
        self._inbox.post(task)

    def reply(self, peer: Peer, message: m.Message) -> None:
        """Send a message to whoever asked."""
        self._outbox.send(peer.identity, message)

    def forget(self, keys: Collection[str]) -> None:
        """Answer the next requests for these keys the long way, so that they are looked up."""
        self._requests.answers.forget(keys)

    def drain(self, *, now: bool = False) -> None:
        """Start no more compiles and end when the running ones have; with ``now``, end those too."""
        self._inbox.post(self._drain, now)

    def facts(self, done: Callable[[Facts], None]) -> None:
        """Give what there is to say at once to ``done``, in the engine's thread, so it must be quick."""
        self._inbox.post(lambda: done(self._views.facts()))

    def waiting(self) -> int:
        """How many requests have no answer yet."""
        return len(self._ledger.asking)

    def remembered_hits(self) -> int:
        """How often the server's thread has answered by itself."""
        return self._requests.remembered_hits

    def nudge(self) -> None:
        """Have the engine's thread take its turn now: it sees that the server has ended, too."""
        self._inbox.nudge()

    def load(self) -> tuple[int, int]:
        """How many compiles run, and how many are queued."""
        states = [job.state for job in list(self._broker.jobs.values())]
        queued = states.count("queued")
        return len(states) - queued, queued

    def busy(self) -> bool:
        """Whether anything is asked, queued or running."""
        return bool(self._ledger.jobs or self._ledger.asking) or not self._inbox.empty()

    def leave_if_idle(self) -> None:
        """Drain, unless somebody has asked for something by now."""
        self._inbox.post(self._leave_if_idle)

    # --- the broker's instructions ----------------------------------------------------------------------------------

    def _do(self, instructions: list[b.Instruction]) -> None:
        for each in instructions:
            match each:
                case b.Deliver():
                    self._requests.deliver(each)
                case b.Refuse():
                    self._requests.fail(each.asker, error_of(each.trouble, each.key))
                case b.Tell():
                    self._requests.tell(each)
                case b.Enqueue():
                    self._jobs.enqueue(each)
                case b.Promote():
                    self._jobs.promote(each.key)
                case b.Withdraw():
                    self._jobs.withdraw(each.key)
                case b.Kill():
                    self._jobs.kill(each.key)

    def _all_counters(self) -> Counter[str]:
        counters = self.counters + Counter(self._work.counters()) + self._outbox.counters()
        counters["hits"] += self._requests.remembered_hits
        return counters

    # --- life -------------------------------------------------------------------------------------------------------

    def _stop(self, peer: Peer, message: m.StopRequest) -> None:
        self._outbox.send(peer.identity, m.Stopping(id=message.id, pid=os.getpid(), jobs=self._ledger.running()))
        self._drain(message.now)

    def _leave_if_idle(self) -> None:
        if self._drain_by is None and not self.busy():
            logger.info("nobody has wanted anything: ending")
            self._drain(now=False)

    def _drain(self, now: bool) -> None:
        if self._drain_by is None:
            logger.info("draining: %d running", self._ledger.running())
            self._drain_by = time.monotonic() + (0.0 if now else self.drain_seconds)
            self.retire()
            self._do(self._broker.drain())
            self._jobs.release_aside()
        if now:
            self._drain_by = time.monotonic()
        self._tick()

    def _tick(self) -> None:
        self._jobs.admit()
        if self._drain_by is not None and time.monotonic() >= self._drain_by:
            self._jobs.end()
            self._requests.dismiss()

    def _on_time(self) -> None:
        """What time alone changes; after every event, so that a busy inbox does not keep it from happening."""
        now = time.monotonic()
        if now >= self._next_tell:
            self._next_tell = now + TELL_SECONDS
            self._jobs.tell(now)
        if now >= self._next_admit:
            self._next_admit = now + ADMIT_SECONDS
            self._tick()
        if self._outbox.dead() and self._drain_by is None:
            logger.critical("the server's thread has died: ending, so that a successor can serve")
            self._drain(now=True)

    def _drained(self) -> bool:
        if self._drain_by is None:
            return False
        late = time.monotonic() - self._drain_by > LATE_SECONDS
        return late or (not self._ledger.jobs and not self._ledger.asking)

    def _patience(self) -> float:
        return TELL_SECONDS if self._ledger.jobs or self._drain_by is not None else self.rest
