"""Leases of a real bucket: carries out what `lease` decides, and keeps what is held alive.

One thread for each lease that is held; who waits does so in the waiting job's own thread. What does not belong here:
decisions (`lease`), and whether the engine can be relied on (`reliance`).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Literal, Protocol

from mlc_jitd.elsewhere import unheard
from mlc_jitd.fellows import ELSEWHERE, Came, NoLease
from mlc_jitd.fleet.held import LEASES, Held, place
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
    Terms,
    Turn,
)
from mlc_jitd.fleet.objects import AbsentError, ExistsError, RemoteError, TooLongError
from mlc_jitd.fleet.record import RECORD_BYTES, Record
from mlc_jitd.tally import Tally
from mlc_jitd.toolchains.base import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.build import StopSignal
    from mlc_jitd.elsewhere import Arriving
    from mlc_jitd.fellows import Lease
    from mlc_jitd.fleet.lease import Outcome, Request, Step
    from mlc_jitd.fleet.objects import Bucket
    from mlc_jitd.fleet.reliance import Reliance
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry

logger = logging.getLogger(__name__)

MOST_GENERATIONS = 1000
CLOSE_SECONDS = 5.0
SLICE_SECONDS = 0.25
FETCHES = 3
"""Tries to get what another host says it has published."""

FETCH_PAUSE_SECONDS = 1.0
RECENT_SECONDS = 5.0

CLAIMS_KEPT = 1024


class Fetching(Protocol):
    """Gets a library from the bucket into the cache; it never raises."""

    def __call__(
        self, identity: Identity, *, locked: bool, known: float = 0.0, told: Callable[[Arriving], None] = unheard
    ) -> Entry | None:
        """See `Elsewhere.fetch`."""


class Leasing:
    """The fleet's leases as this host takes, keeps and awaits them; a `Fellows`. From any thread.

    Args:
        bucket: Where they are; its requests must be short.
        fetch: Gets a library from the bucket into the cache, if one is there.
        reliance: Whether the engine's create-only puts are what they say.
        terms: How patient this host is.
        host: Its name, for people on other hosts.
        writes: Whether what is compiled here goes into the bucket; else this host waits for others, and holds nothing.
    """

    def __init__(
        self,
        bucket: Bucket,
        fetch: Fetching,
        reliance: Reliance,
        terms: Terms,
        *,
        host: str,
        writes: bool,
    ) -> None:
        self._bucket = bucket
        self._fetch = fetch
        self._reliance = reliance
        self._terms = terms
        self._host = host
        self._writes = writes
        self._tally = Tally()
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        """By key: of those who wait, or wait for cores."""
        self._alone: set[str] = set()
        """Keys whose next compile goes without a lease."""
        self._held: dict[str, Held] = {}

    def take(self, identity: Identity, stop: StopSignal) -> Lease | Waiting | Came:
        """See `Fellows`."""
        claim = self._claim(identity.key)
        if claim is None:
            there = self._fetch(identity, locked=True, known=RECENT_SECONDS)  # it may have come meanwhile
            return NoLease() if there is None else Came(there)
        outcome, entry = self._drive(claim, claim.begin(time.monotonic()), identity, stop, locked=True)
        match outcome:
            case Have(generation):
                if generation is not None:
                    self._hold(identity.key, claim, generation).end("published")
                assert entry is not None
                return Came(entry)
            case Hold(generation):
                self._tally.add("lease_taken")
                return self._hold(identity.key, claim, generation)
            case Elsewhere():
                return Waiting(self, claim, identity)
            case Local():
                self._without(identity.key, outcome)
                return NoLease()
            case Turn():  # stopped: the compile will see that, too
                return NoLease()

    def _claim(self, key: str) -> Claim | None:
        """The claim of a job that gets cores, the one of before if it has waited; None to compile without."""
        with self._lock:
            held = self._held.get(key)
        if held is not None:
            held.join(CLOSE_SECONDS)  # of a try before this one: its last word is just being written
        with self._lock:
            alone = key in self._alone or key in self._held
            self._alone.discard(key)
            claim = self._claims.pop(key, None)
        if alone:
            return None
        self._reliance.ask()
        state = self._reliance.state
        if state == "off":
            self._tally.add("lease_without")
            self._tally.add("lease_without_reliance")
            return None
        may_hold = self._writes and state == "full"
        return claim or Claim(secrets.token_hex(16), self._terms, may_hold=may_hold)

    def wait(self, claim: Claim, identity: Identity, report: Callable[[Stage], None], stop: StopSignal) -> Entry | None:
        """See `Away.wait`."""
        self._tally.add("lease_waits")
        report(told(claim))
        outcome, entry = self._drive(claim, claim.wait(time.monotonic()), identity, stop, report=report)
        if isinstance(outcome, Have):
            self._tally.add("lease_spared")
            return entry
        with self._lock:
            if isinstance(outcome, Local):
                self._alone.add(identity.key)
            else:
                self._claims[identity.key] = claim
                while len(self._claims) > CLAIMS_KEPT:
                    del self._claims[next(iter(self._claims))]
        if isinstance(outcome, Local):
            self._without(identity.key, outcome)
        return None

    @contextlib.contextmanager
    def publishing(self, key: str) -> Iterator[bool]:
        """Around putting a library into the bucket: whether this host may, and what it held is given up after it.

        A host that holds no lease of the key may: then the create-only manifest decides.
        """
        with self._lock:
            held = self._held.get(key)
        if held is None:
            yield True
            return
        if not held.confirm():
            held.end("released")
            yield False
            return
        try:
            yield True
        except BaseException:
            held.end("released")
            raise
        held.end("published")

    def withhold(self, key: str) -> None:
        """What was compiled here is not for others: they compile for themselves."""
        with self._lock:
            held = self._held.get(key)
        if held is not None:
            held.end("failed")

    def why_not(self) -> str:
        """Why hosts can't agree there who compiles; empty where they can, need not, or nothing is known."""
        state = self._reliance.state
        return "" if state == "full" or (state == "watch" and not self._writes) else self._reliance.why

    def ask(self) -> None:
        """Learn what leases the engine allows, if that is not known."""
        self._reliance.ask()

    def close(self) -> None:
        """Give back what is held."""
        with self._lock:
            held = list(self._held.values())
        for each in held:
            each.end("released")
        end = time.monotonic() + CLOSE_SECONDS
        for each in held:
            each.join(max(0.0, end - time.monotonic()))

    def counters(self) -> dict[str, int]:
        """How often what happened.

        ``lease_taken``; ``lease_waits``, of which ``lease_spared`` ended with another host's library; ``lease_lost``;
        ``lease_faults``; ``lease_without``: compiles without one, for the reasons ``lease_without_REASON``.
        """
        return self._tally.read()

    def _hold(self, key: str, claim: Claim, generation: int) -> Held:
        holding = Holding(claim.owner, self._host, generation, self._terms, time.monotonic())
        with self._lock:
            held = self._held[key] = Held(self._bucket, key, holding, self._tally, self._ended)
        return held

    def _ended(self, held: Held) -> None:
        with self._lock:
            if self._held.get(held.key) is held:
                del self._held[held.key]

    def _without(self, key: str, outcome: Local) -> None:
        self._tally.add("lease_without")
        self._tally.add(f"lease_without_{outcome.reason.replace('-', '_')}")
        logger.info("%s is compiled here without a lease of the fleet: %s", key[:12], outcome.why)

    def _drive(
        self,
        claim: Claim,
        step: Step,
        identity: Identity,
        stop: StopSignal,
        *,
        locked: bool = False,
        report: Callable[[Stage], None] = lambda _stage: None,
    ) -> tuple[Outcome, Entry | None]:
        """Ask the bucket what the claim wants to know, until it knows what to do."""
        said = None
        entry: Entry | None = None
        while not isinstance(step, Hold | Have | Elsewhere | Turn | Local):
            while (left := step.at - time.monotonic()) > 0 or stop.reason is not None:
                if stop.reason is not None:
                    return claim.stop(), None
                time.sleep(min(left, SLICE_SECONDS))
            if isinstance(step, Fetch):
                entry = self._fetched(claim, identity, report, locked=locked)
                found: Literal["there", "absent", "unusable"] = "absent" if entry is None else "there"
                if entry is None and claim.holder is not None and claim.holder.ended == "published":
                    found = "unusable"
                step = claim.fetched(found, time.monotonic())
            else:
                step = self._ask(claim, identity.key, step)
            if claim.state == "waiting" and claim.holder is not said:
                said = claim.holder
                report(told(claim))
        return step, entry

    def _ask(self, claim: Claim, key: str, request: Request) -> Step:
        sent = time.monotonic()
        try:
            match request:
                case Latest():
                    found = self._bucket.list(f"{LEASES}/{key}", most=MOST_GENERATIONS)
                    numbers = [int(name) for each in found if (name := each.name.rpartition("/")[2]).isdecimal()]
                    return claim.listed(max(numbers, default=None), time.monotonic())
                case Look(generation):
                    record = self._read(key, generation)
                    return claim.looked(record, sent=sent, now=time.monotonic())
                case Create(generation):
                    first = Record(owner=claim.owner, host=self._host, lease=self._terms.lease, stage="starting")
                    self._bucket.put(place(key, generation), first.encode(), create=True)
                    return claim.created(time.monotonic())
                case _:
                    raise AssertionError("fetching is another room's")
        except ExistsError:
            return claim.exists(time.monotonic())
        except RemoteError as error:
            self._tally.add("lease_faults")
            logger.debug("the lease of %s: %s", key[:12], error)
            return claim.failed(time.monotonic())

    def _read(self, key: str, generation: int) -> Record | None:
        try:
            return Record.decode(self._bucket.get(place(key, generation), most=RECORD_BYTES).data)
        except AbsentError:
            return None
        except TooLongError:
            return Record.decode(b"")

    def _fetched(
        self, claim: Claim, identity: Identity, report: Callable[[Stage], None], *, locked: bool
    ) -> Entry | None:
        published = claim.holder is not None and claim.holder.ended == "published"
        for again in range(FETCHES if published else 1):
            if again:
                time.sleep(FETCH_PAUSE_SECONDS)
            # A bucket in trouble is asked again; what it said, and what was refused of it, stands for a while.
            entry = self._fetch(
                identity,
                locked=locked,
                known=RECENT_SECONDS if again else 0.0,
                told=lambda arriving: report(Stage(ELSEWHERE, f"was compiled there: {arriving.words}")),
            )
            if entry is not None:
                return entry
        return None


class Waiting:
    """Another host compiles it; an `Away`."""

    def __init__(self, leasing: Leasing, claim: Claim, identity: Identity) -> None:
        self._leasing = leasing
        self._claim = claim
        self._identity = identity

    def wait(self, report: Callable[[Stage], None], stop: StopSignal) -> Came | None:
        """See `Away`."""
        entry = self._leasing.wait(self._claim, self._identity, report, stop)
        return None if entry is None else Came(entry)


def told(claim: Claim) -> Stage:
    """What those who wait are shown."""
    record = claim.holder
    assert record is not None
    words = f"being compiled on {record.host}"
    if record.stage:
        words += f": {record.stage}"
    words += f", for {record.elapsed:.0f} s"
    if record.left is not None:
        words += f", {record.left:.0f} s left"
    return Stage(ELSEWHERE, words)
