"""Who compiles a key for the whole fleet: a pure state machine, answers of the store in, the next request out.

It holds no socket, clock, file or thread and imports no other room, so tests and simulations drive the very code that
runs. Time comes in as values of the host's own monotonic clock, and no two hosts' clocks are ever compared.

A key's lease is a row of objects, one for each *generation*. Who creates an object (create-only, so there is one
winner) holds that generation, and rewrites the object as its heartbeat. A waiter that has seen no change for a silence
(`Terms`), by its own clock, creates the next generation; whoever held the one before lost, and looks for that before
it publishes. A claim goes::

    begin ── Latest ──┬─ none ───────────── Create ── Fetch ── Hold          (cores in hand)
                      └─ Look ──┬─ ended, or unchanged for too long ── Fetch ── Create the next ── Fetch ── Hold
                                └─ held ── Elsewhere                         (the cores go back)
    wait ─── Look ... ──────────┬─ published ── Fetch ── Have
                                ├─ free, or unchanged for too long ── Fetch ── Turn   (get cores, `begin` again)
                                └─ failed there, or the store is silent ── Local

Each method but ``begin`` and ``wait`` is the answer to the request that came before, and returns the next one.
Not guaranteed: one compile only. Who is frozen or cut off for longer than that silence may compile beside its
successor, and so does who can't reach the store. That one library is published is for the create-only manifest to see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .record import Record

DEATHS = 3
"""Holders that may die under a waiter until it goes on alone."""

TRIES = 3
"""Requests in a row that may fail while cores are held, and creations that may come to nothing."""

RETRY_SECONDS = 0.25

State = Literal["idle", "listing", "looking", "creating", "verifying", "checking", "waiting", "over"]
Fetched = Literal["there", "absent", "unusable"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient a host is. All in seconds.

    The lease time is the whole promise: a sign of life is 31 % of it old at most when a waiter sees it (`most`, and a
    quarter for the spread), and 67 % are the `silence` that follows. What requests take comes on top.

    Attributes:
        lease: Until a waiter goes on: beyond a holder's last sign of life, or a silent store's last answer.
        first: Until the second look of a waiter; each later pause is longer by half.
        longest: A compile elsewhere that takes longer is not waited for; 0 for no such limit.
    """

    lease: float = 30.0
    first: float = 1.0
    longest: float = 0.0

    @property
    def silence(self) -> float:
        """Without a new sign of life for so long, a holder counts as dead."""
        return self.lease * 2 / 3

    @property
    def most(self) -> float:
        """The longest pause between two looks, before it is spread by a quarter to either side."""
        return self.lease / 4

    @property
    def beat(self) -> float:
        """How often a holder gives a sign of life: four times in a silence."""
        return self.silence / 4


@dataclass(frozen=True, slots=True)
class Latest:
    """List the key's generations; answer with ``listed``. Not before ``at``, as for all requests."""

    at: float


@dataclass(frozen=True, slots=True)
class Look:
    """Read a generation's object; answer with ``looked``."""

    generation: int
    at: float


@dataclass(frozen=True, slots=True)
class Create:
    """Create a generation's object, only if there is none; answer with ``created`` or ``exists``."""

    generation: int
    at: float


@dataclass(frozen=True, slots=True)
class Fetch:
    """Look for the library itself, and take it if it is there; answer with ``fetched``."""

    at: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Compile: this host holds the generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Have:
    """The library is here. ``held`` is a generation that this host created for nothing, to be ended."""

    held: int | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Give the cores back and ``wait``: another host compiles."""

    record: Record


@dataclass(frozen=True, slots=True)
class Turn:
    """Nobody compiles any more: get cores, and ``begin`` again."""

    why: str


@dataclass(frozen=True, slots=True)
class Local:
    """Compile without a lease. ``reason`` is a word to count by."""

    reason: Literal["store-fault", "failed-elsewhere", "holders-died", "too-long", "unusable", "read-only"]
    why: str


Request = Latest | Look | Create | Fetch
Outcome = Hold | Have | Elsewhere | Turn | Local
Step = Request | Outcome


class Claim:
    """One host's claim to one key.

    Args:
        owner: Names this claim and no other, in hexadecimal digits.
        terms: How patient it is.
        may_hold: Whether this host may compile for others; else it waits for those who do, and never creates.
    """

    def __init__(self, owner: str, terms: Terms, *, may_hold: bool = True) -> None:
        self.owner = owner
        self.terms = terms
        self.may_hold = may_hold
        self.state: State = "idle"
        self.generation: int | None = None
        """The newest that is known."""
        self.holder: Record | None = None
        """What was read of it last."""
        self.since = 0.0
        """When the first answer arrived that showed the holder's present beat."""
        self._dead: set[int] = set()
        self._cores = False
        self._pause = terms.first
        self._last: Request | None = None
        self._heard = 0.0
        """When the store answered last; of a wait, not before its begin."""
        self._tries = 0
        self._creations = 0
        self._next: Literal["create", "hold", "give-up"] = "create"
        self._waited_for: int | None = None

    # --- what the host wants ----------------------------------------------------------------------------------------

    def begin(self, now: float) -> Step:
        """Cores are in hand: take the lease, or learn who has it."""
        assert self.state in ("idle", "over"), "one thing at a time"
        self._cores, self._tries, self._creations = True, 0, 0
        if self.generation is None:
            return self._ask("listing", Latest(now))
        return self._ask("looking", Look(self.generation, now))

    def wait(self, now: float) -> Step:
        """Another host compiles, and the cores are given back."""
        assert self.state == "over"
        assert self.holder is not None
        self._cores, self._pause, self._heard, self._waited_for = False, self.terms.first, now, self.generation
        return self._again(now)

    # --- the store's answers ----------------------------------------------------------------------------------------

    def listed(self, generation: int | None, now: float) -> Step:
        """The newest generation, if there is any."""
        self._answered(now, "listing")
        if generation is None:
            return self._create(0, now)
        self._see(generation)
        return self._ask("looking", Look(generation, now))

    def looked(self, record: Record | None, *, sent: float, now: float) -> Step:
        """What a generation's object holds.

        Args:
            record: Of it; None where there is no such object.
            sent: When the request left: an answer that was long on its way says little of what is.
            now: When the answer came.
        """
        verifying = self.state == "verifying"
        self._answered(now, "looking", "verifying", "waiting")
        assert self.generation is not None
        if record is None:
            return self._create(self.generation, now) if verifying else self._relist(now)
        if record.owner == self.owner:
            return self._won(now)
        if not record.same_beat(self.holder):
            self.since = now
        self.holder = record
        if record.ended:
            return self._ended(record, now)
        if record.elapsed > self.terms.longest > 0:
            return self._over(Local("too-long", f"{record.host} has been at it for {record.elapsed:.0f} s"))
        if sent >= self._dead_at(record):
            self._dead.add(self.generation)
            if len(self._dead) > DEATHS:
                return self._over(Local("holders-died", f"{len(self._dead)} hosts that compiled this were lost"))
            return self._check("create", now)
        if self._cores:
            return self._over(Elsewhere(record))
        return self._again(now)

    def created(self, now: float) -> Step:
        """The object is ours."""
        self._answered(now, "creating")
        return self._won(now)

    def exists(self, now: float) -> Step:
        """There is one: another host's, or ours if the store's client sent twice; or it is just being made."""
        self._answered(now, "creating")
        assert self.generation is not None
        return self._ask("verifying", Look(self.generation, now))

    def fetched(self, found: Fetched, now: float) -> Step:
        """What came of looking for the library."""
        self._answered(now, "checking")
        if found == "there":
            return self._over(Have(self.generation if self._next == "hold" else None))
        if self._next == "hold":
            assert self.generation is not None
            return self._over(Hold(self.generation))
        if self._next == "give-up" and found != "absent":
            return self._over(Local("unusable", "what was published can't be used here"))
        return self._next_generation(now)

    def failed(self, now: float) -> Step:
        """The request failed, or its outcome is not known."""
        assert self._last is not None
        self._tries += 1
        end = self._heard + self.terms.lease
        patience = self._tries < TRIES if self._cores else now < end
        if not patience and self.state == "checking" and self._next == "hold":
            return self.fetched("absent", now)
        if not patience:
            return self._over(Local("store-fault", "the remote store does not answer"))
        pause = RETRY_SECONDS
        if not self._cores:
            pause = min(self.terms.first * 2 ** min(self._tries, 6), self.terms.beat, end - now)
        if isinstance(self._last, Create):  # it may have come through
            return self._ask("verifying", Look(self._last.generation, now + pause))
        return self._ask(self.state, replace(self._last, at=now + pause))

    def stop(self) -> Outcome:
        """Nobody wants it any more, or the host goes away."""
        return self._over(Turn("stopped"))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _won(self, now: float) -> Step:
        # Between the miss and the lease another host may have published.
        return self._check("hold", now)

    def _ended(self, record: Record, now: float) -> Step:
        if record.ended == "published":
            return self._check("give-up", now)
        if record.ended == "failed" and self._waited_for == self.generation:
            # Not one host after the other: who waited would wait for as many compiles as there are hosts.
            return self._over(Local("failed-elsewhere", f"it failed on {record.host}"))
        return self._next_generation(now)

    def _next_generation(self, now: float) -> Step:
        """The newest generation is over."""
        assert self.generation is not None
        if not self._cores:
            return self._over(Turn("nobody compiles it any more"))
        return self._create(self.generation + 1, now)

    def _create(self, generation: int, now: float) -> Step:
        if not self.may_hold:
            return self._over(
                Local("read-only", "nobody compiles it, and this host writes nothing to the remote store")
            )
        self._creations = self._creations + 1 if generation == self.generation else 1
        if self._creations > TRIES:
            return self._over(Local("store-fault", "the remote store takes no lease"))
        self._see(generation)
        return self._ask("creating", Create(generation, now + (RETRY_SECONDS if self._creations > 1 else 0.0)))

    def _relist(self, now: float) -> Step:
        """An object that was there is gone: old ones are tidied away."""
        self.generation = self.holder = None
        if not self._cores:
            return self._over(Turn("its lease is gone"))
        return self._ask("listing", Latest(now))

    def _check(self, then: Literal["create", "hold", "give-up"], now: float) -> Step:
        self._next = then
        return self._ask("checking", Fetch(now))

    def _again(self, now: float) -> Step:
        """Look again later, but not later than it takes to know that the holder is dead."""
        assert self.generation is not None
        assert self.holder is not None
        pause = self._pause
        if self.holder.left is not None:
            pause = max(pause, self.holder.left / 3)
        pause = min(pause, self.terms.most) * (0.75 + 0.5 * self._spread())
        self._pause = min(self._pause * 1.5, self.terms.most)
        return self._ask("waiting", Look(self.generation, max(now, min(now + pause, self._dead_at(self.holder)))))

    def _spread(self) -> float:
        """Between 0 and 1, and another for each claim, so that a fleet does not ask in step."""
        return int(self.owner[:8] or "0", 16) / 0xFFFFFFFF

    def _dead_at(self, record: Record) -> float:
        """Hosts may be set to different lease times: the longer one counts, within reason."""
        return self.since + Terms(max(self.terms.lease, min(record.lease, 4 * self.terms.lease))).silence

    def _see(self, generation: int) -> None:
        if generation != self.generation:
            self.generation, self.holder = generation, None

    def _ask(self, state: State, request: Request) -> Request:
        self.state, self._last = state, request
        return request

    def _answered(self, now: float, *states: State) -> None:
        assert self.state in states, f"an answer to {states} in {self.state}"
        self._heard, self._tries = now, 0

    def _over(self, outcome: Outcome) -> Outcome:
        self.state = "over"
        return outcome


class Holding:
    """A generation that this host holds. Like `Claim`, pure.

    Args:
        owner: As of the claim.
        host: Its name, for people.
        generation: Which one.
        terms: How patient this host is.
        now: When it was created, or later.
    """

    def __init__(self, owner: str, host: str, generation: int, terms: Terms, now: float) -> None:
        self.generation = generation
        self.lost = False
        """Whether another host holds a later generation."""
        self._record = Record(owner=owner, host=host, lease=terms.lease)
        self.terms = terms
        self._began = self._kept = now

    def due(self) -> float:
        """When the next sign of life is to be given."""
        return self._kept + self.terms.beat

    def beat(self, now: float, *, stage: str = "", left: float | None = None, ended: str = "") -> Record:
        """The next sign of life, or with ``ended`` the last; to be written over the generation's object."""
        elapsed = round(now - self._began, 1)
        self._record = self._record.next(stage=stage, elapsed=elapsed, left=left, ended=ended)
        return self._record

    def kept(self, sent: float) -> None:
        """A sign of life was written; it left at ``sent``."""
        self._kept = sent

    def ahead(self, *, exists: bool) -> None:
        """Whether there is a later generation: looked for after each sign of life, and before publishing."""
        self.lost = self.lost or exists

    def doubtful(self, now: float) -> bool:
        """Whether others may hold this host for dead: it has been silent for too long."""
        return self.lost or now - self._kept >= self.terms.silence
