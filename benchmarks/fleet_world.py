"""A fleet in one process: hosts that run the daemon's own lease code against a simulated object store.

Time is simulated. A request takes its latency, and has its effect half way; it may be lost on the way there or on the
way back. Each host has a clock of its own, with an offset and a rate, and may freeze, be cut off, or die. Used by
``fleet_simulation.py`` for ten thousand hosts, and by the tests for a few in trouble.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlc_jitd.fleet.lease import (
    Claim,
    Create,
    Elsewhere,
    Fetch,
    Have,
    Hold,
    Holding,
    Latest,
    Local,
    Look,
    Request,
    Step,
    Terms,
    Turn,
)
from mlc_jitd.fleet.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_SECONDS = 5.0
"""How long a host waits for an answer that does not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """What the world is like. Times in seconds, sizes in bytes.

    Attributes:
        latency: The median of a request; the distribution is log-normal.
        spread: Its sigma.
        loss: How many requests of one are lost, half of them after they took effect.
        compile_seconds: The shortest and the longest compile.
        library: Size of a library, and of its manifest.
        bandwidth: Of one host, bytes a second.
        slots: Compiles that a host runs at a time.
        clock_rate: By how much of one a host's clock may run fast or slow.
    """

    latency: float = 0.03
    spread: float = 0.5
    loss: float = 0.0
    compile_seconds: tuple[float, float] = (60.0, 100.0)
    library: int = 10 << 20
    manifest: int = 4 << 10
    bandwidth: float = 100e6
    slots: int = 2
    clock_rate: float = 0.0


@dataclass(slots=True)
class Published:
    """What the store holds of one key."""

    generations: dict[int, Record] = field(default_factory=dict)
    library: str = ""
    """Whose."""


@dataclass(slots=True)
class Host:
    """One host: its clock, its troubles, and its queue."""

    name: str
    rate: float
    offset: float
    queue: deque[Work] = field(default_factory=deque)
    running: int = 0
    frozen_until: float = 0.0
    cut_until: float = 0.0
    dead: bool = False
    troubled: bool = False
    """Whether it was ever frozen or cut off."""


@dataclass(slots=True, eq=False)
class Work:
    """One host's wish for one key."""

    host: Host
    key: int
    asked: float
    claim: Claim | None = None
    holding: Holding | None = None
    compiled: int = 0
    waits: list[float] = field(default_factory=list)
    """How long it waited for each holder."""
    since: float | None = None
    """When it began to wait for the present one."""
    done: float | None = None
    state: str = "asked"
    why: str = ""


class World:
    """See the module's docstring.

    Args:
        terms: Of every host.
        nature: What the world is like.
        seed: Everything that happens by chance follows from it.
    """

    def __init__(self, terms: Terms, nature: Nature, seed: int = 0) -> None:
        self.terms = terms
        self.nature = nature
        self.random = random.Random(seed)
        self.now = 0.0
        self.hosts: list[Host] = []
        self.store: dict[int, Published] = {}
        self.works: list[Work] = []
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.rates: Counter[int] = Counter()
        """Requests by the second."""
        self.compiles: list[tuple[float, Work, str]] = []
        """When a compile began, whose, and under what: ``lease N`` or the reason for doing without one."""
        self.refused = 0
        """Publishes that met a library."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self.took: dict[int, float] = {}
        """The longest that a key's compile took, in a host that froze meanwhile."""
        self._seconds: dict[int, float] = {}

    # --- what a test or a benchmark does ----------------------------------------------------------------------------

    def boot(self, name: str) -> Host:
        """One more host."""
        rate = 1.0 + self.random.uniform(-self.nature.clock_rate, self.nature.clock_rate)
        host = Host(name, rate, self.random.uniform(0, 1e6))
        self.hosts.append(host)
        return host

    def ask(self, host: Host, key: int) -> Work:
        """A host wants a library."""
        work = Work(host, key, self.now)
        self.works.append(work)
        self._look_up(work)
        return work

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Let something happen."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what, arguments))

    def run(self, until: float) -> None:
        """Let time pass."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        self.now = max(self.now, until)

    def settle(self, most: float) -> None:
        """Let time pass until nothing is under way, or for so many seconds."""
        end = self.now + most
        while self._heap and self._heap[0][0] <= end:
            self.run(self._heap[0][0])

    def seconds(self, key: int) -> float:
        """How long the compile of a key takes."""
        return self._seconds.setdefault(key, self.random.uniform(*self.nature.compile_seconds))

    # --- a host's way -----------------------------------------------------------------------------------------------

    def _look_up(self, work: Work) -> None:
        self._request(
            work.host, "get-manifest", lambda: self._published(work.key), lambda got: self._looked_up(work, got)
        )

    def _looked_up(self, work: Work, got: bool | None) -> None:
        if got:
            self._download(work, lambda: self._finish(work))
        else:
            self._enqueue(work)

    def _published(self, key: int) -> bool:
        there = bool(self._of(key).library)
        if there:
            self.bytes["down"] += self.nature.manifest
        return there

    def _download(self, work: Work, then: Callable[[], None]) -> None:
        def arrived(_got: bool | None) -> None:
            self.bytes["down"] += self.nature.library
            self._later(work.host, self.nature.library / self.nature.bandwidth, then)

        self._request(work.host, "get-library", lambda: True, arrived)

    def _enqueue(self, work: Work) -> None:
        work.state = "queued"
        work.host.queue.append(work)
        self._admit(work.host)

    def _admit(self, host: Host) -> None:
        while host.queue and host.running < self.nature.slots:
            work = host.queue.popleft()
            host.running += 1
            if work.claim is None:
                work.claim = Claim(f"{self.random.getrandbits(64):016x}", self.terms)
            work.state = "claiming"
            self._step(work, work.claim.begin(self._clock(host)))

    def _give_back(self, host: Host) -> None:
        host.running -= 1
        self._admit(host)

    def _step(self, work: Work, step: Step) -> None:
        """Carry out what the claim wants next."""
        host, claim = work.host, work.claim
        assert claim is not None
        self._note_wait(work, step)
        match step:
            case Latest() | Look() | Create() | Fetch():
                pause = max(0.0, step.at - self._clock(host)) / host.rate
                self._later(host, pause, self._send, work, step)
            case Elsewhere():
                work.state, work.since = "waiting", self.now
                self._step(work, claim.wait(self._clock(host)))
                self._give_back(host)
            case Turn():
                self._enqueue(work)
            case Have():
                if step.held is not None:
                    self._end_lease(work, step.held, "published")
                cores = work.state == "claiming"
                self._finish(work)
                if cores:
                    self._give_back(host)
            case Hold():
                work.holding = Holding(claim.owner, host.name, step.generation, self.terms, self._clock(host))
                self._compile(work, f"lease {step.generation}")
                self._later(host, self.terms.beat / host.rate, self._beat, work, work.holding)
            case Local():
                work.why = step.reason
                if work.state == "claiming":
                    self._compile(work, step.reason)
                else:
                    host.running += 1  # it goes before others: it has waited
                    self._compile(work, step.reason)

    def _note_wait(self, work: Work, step: Step) -> None:
        if work.since is not None and isinstance(step, Have | Turn | Local):
            work.waits.append(self.now - work.since)
            work.since = None

    def _send(self, work: Work, step: Request) -> None:
        claim, sent = work.claim, self._clock(work.host)
        assert claim is not None
        of = self._of(work.key)

        def ask(kind: str, effect: Callable[[], Any], answer: Callable[[Any, float], Step]) -> None:
            def then(got: tuple[Any] | None) -> None:
                now = self._clock(work.host)
                self._step(work, claim.failed(now) if got is None else answer(got[0], now))

            self._request(work.host, kind, lambda: (effect(),), then)

        match step:
            case Latest():
                ask("list", lambda: max(of.generations, default=None), claim.listed)
            case Look(generation):
                ask(
                    "get-lease",
                    lambda: of.generations.get(generation),
                    lambda got, now: claim.looked(got, sent=sent, now=now),
                )
            case Create(generation):
                ask(
                    "put-lease",
                    lambda: self._create(work, claim, generation),
                    lambda got, now: claim.created(now) if got else claim.exists(now),
                )
            case Fetch():
                self._fetch(work, claim)

    def _create(self, work: Work, claim: Claim, generation: int) -> bool:
        of = self._of(work.key)
        if generation in of.generations:
            return False
        of.generations[generation] = Record(owner=claim.owner, host=work.host.name, lease=self.terms.lease)
        return True

    def _fetch(self, work: Work, claim: Claim) -> None:
        def got_manifest(got: tuple[bool] | None) -> None:
            now = self._clock(work.host)
            if got is None:
                self._step(work, claim.failed(now))
            elif not got[0]:
                self._step(work, claim.fetched("absent", now))
            else:
                self._download(work, lambda: self._step(work, claim.fetched("there", self._clock(work.host))))

        self._request(work.host, "get-manifest", lambda: (self._published(work.key),), got_manifest)

    # --- compiling --------------------------------------------------------------------------------------------------

    def _compile(self, work: Work, under: str) -> None:
        work.state = "compiling"
        work.compiled += 1
        self.compiles.append((self.now, work, under))
        self._later(work.host, self.seconds(work.key), self._compiled, work, self.now)

    def _beat(self, work: Work, holding: Holding) -> None:
        """A sign of life, and a look for a successor; as the shell does."""
        if work.holding is not holding:
            return
        sent = self._clock(work.host)
        record = holding.beat(sent, stage="compile")

        def looked(got: tuple[bool] | None) -> None:
            if got is not None:
                holding.ahead(exists=got[0])

        def kept(got: bool | None) -> None:
            if got:
                holding.kept(sent)
            self._ahead(work, holding, looked)

        self._request(work.host, "put-lease", lambda: self._write(work.key, holding.generation, record), kept)
        self._later(work.host, self.terms.beat / work.host.rate, self._beat, work, holding)

    def _ahead(self, work: Work, holding: Holding, then: Callable[[tuple[bool] | None], None]) -> None:
        of = self._of(work.key)
        self._request(work.host, "get-lease", lambda: ((holding.generation + 1) in of.generations,), then)

    def _write(self, key: int, generation: int, record: Record) -> bool:
        self._of(key).generations[generation] = record
        return True

    def _compiled(self, work: Work, began: float) -> None:
        """It has its library; whether the fleet gets it is another question."""
        self.took[work.key] = max(self.took.get(work.key, 0.0), self.now - began)
        self._finish(work)
        holding = work.holding
        if holding is None:
            self._publish(work, lambda _got: None)
        else:

            def looked(got: tuple[bool] | None) -> None:
                holding.ahead(exists=got is None or got[0])
                if holding.lost:
                    work.holding = None
                else:
                    self._publish(work, lambda _got: self._end_lease(work, holding.generation, "published"))

            self._ahead(work, holding, looked)
        self._give_back(work.host)

    def _publish(self, work: Work, then: Callable[[bool | None], None]) -> None:
        of = self._of(work.key)

        def put() -> bool:
            if of.library:
                self.refused += 1
            else:
                of.library = work.host.name
            return True

        def uploaded(got: bool | None) -> None:
            if got is None:
                then(None)
            else:
                self._request(work.host, "put-manifest", put, then)

        self.bytes["up"] += self.nature.library + self.nature.manifest
        self._later(
            work.host,
            self.nature.library / self.nature.bandwidth,
            self._request,
            work.host,
            "put-library",
            lambda: True,
            uploaded,
        )

    def _end_lease(self, work: Work, generation: int, how: str) -> None:
        assert work.claim is not None
        holding = work.holding or Holding(work.claim.owner, work.host.name, generation, self.terms, 0.0)
        work.holding = None
        record = holding.beat(self._clock(work.host), ended=how)
        self._request(work.host, "put-lease", lambda: self._write(work.key, generation, record), lambda _got: None)

    def _finish(self, work: Work) -> None:
        if work.done is None:
            work.done = self.now
        work.state = "done"

    # --- the network ------------------------------------------------------------------------------------------------

    def _of(self, key: int) -> Published:
        found = self.store.get(key)
        if found is None:
            found = self.store[key] = Published()
        return found

    def _clock(self, host: Host) -> float:
        return self.now * host.rate + host.offset

    def _request(self, host: Host, kind: str, effect: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Send a request; ``then`` gets what its effect returned, or None where no answer came."""
        self.requests[kind] += 1
        self.rates[int(self.now)] += 1
        latency = self.random.lognormvariate(0.0, self.nature.spread) * self.nature.latency
        lost = self.now < host.cut_until or (self.nature.loss > 0.0 and self.random.random() < self.nature.loss)
        applied = not lost or (self.now >= host.cut_until and self.random.random() < 0.5)
        if applied:
            self.at(self.now + latency / 2, self._take_effect, host, effect, then, latency / 2, lost)
        else:
            self._later(host, TIMEOUT_SECONDS, then, None)

    def _take_effect(
        self, host: Host, effect: Callable[[], Any], then: Callable[[Any], None], rest: float, lost: bool
    ) -> None:
        got = effect()  # what was sent takes effect, whatever has become of the sender
        if lost:
            self._later(host, TIMEOUT_SECONDS, then, None)
        else:
            self._later(host, rest, then, got)

    def _later(self, host: Host, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + seconds, self._on, host, what, arguments)

    def _on(self, host: Host, what: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """In a host, unless it is dead; not while it is frozen."""
        if host.dead:
            return
        if self.now < host.frozen_until:
            self.at(host.frozen_until, self._on, host, what, arguments)
            return
        what(*arguments)
