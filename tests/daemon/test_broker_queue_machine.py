"""Broker and queue together, wired as the engine wires them, whatever dies when: nobody is forgotten, nothing doubled.

The driver below carries out instructions on plain values: no socket, clock, thread or compiler. What it does with each
event is what ``Engine`` does, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlc_jitd.broker import (
    Asker,
    Broker,
    Deliver,
    Enqueue,
    Instruction,
    Kill,
    Policy,
    Promote,
    Refuse,
    Step,
    Tell,
    Trouble,
    Withdraw,
)
from mlc_jitd.schedule import fit
from mlc_jitd.schedule.host import GIB, Capacity
from mlc_jitd.schedule.jobs import Accepted, Demand, Grant, Settings
from mlc_jitd.schedule.queue import Queue

KEYS = ("aa", "ab", "ac", "ad", "ae", "af")
POLICIES: tuple[Policy, ...] = ("ON", "ON", "ON", "REDO", "READONLY", "OFF")
USERS = {b"v": 1, b"w": 1, b"x": 2, b"y": 3}
"""Connections, each a client process, and whose they are."""

OVERTAKES = 3
PATIENCE = 30.0
QUEUED = 4

connections = st.sampled_from(sorted(USERS))
needs = st.sampled_from([None, 0, GIB, 3 * GIB, 10 * GIB])


@dataclass
class Held:
    """What an engine holds for a job: its demand as submitted, and whether it had its second try."""

    demand: Demand
    retried: bool = False


class Driver:
    """An engine without effects, and the books that tests look at.

    Attributes:
        open: Who asked, was not answered and did not leave, and for what.
        looking: Askers whose look-up has not come back.
        told: The last step that each heard.
        running: What was granted to each job whose compiler runs.
        dying: Those of them that were told to end.
        answers: How often each was answered; once, or never if it left.
    """

    def __init__(self, capacity: Capacity, figures: Settings) -> None:
        self.broker = Broker(backoff=5.0)
        self.queue = Queue(figures)
        self.figures = figures
        self.capacity = capacity
        self.now = 1000.0
        self.needs: dict[str, tuple[int | None, float | None]] = {}
        self.open: dict[Asker, str] = {}
        self.policies: dict[Asker, tuple[Policy, bool]] = {}
        self.again: set[Asker] = set()
        self.looking: dict[Asker, str] = {}
        self.held: dict[str, Held] = {}
        self.running: dict[str, Grant] = {}
        self.dying: set[str] = set()
        self.told: dict[Asker, Step] = {}
        self.answers: dict[Asker, str] = {}
        self.started: list[str] = []
        self.touched: dict[str, int] = {}
        self.count = 0

    # --- events, as the engine handles them -------------------------------------------------------------------------

    def ask(
        self, connection: bytes, key: str, policy: Policy = "ON", *, hit: bool = False, prewarm: bool = False
    ) -> Asker:
        self.count += 1
        asker = (connection, self.count)
        self.open[asker] = key
        self.policies[asker] = (policy, prewarm)
        self.looked_up(asker, hit=hit)
        return asker

    def looked_up(self, asker: Asker, *, hit: bool) -> None:
        self.looking.pop(asker, None)
        if asker not in self.open:
            return
        policy, prewarm = self.policies[asker]
        key, reason = self.open[asker], "" if hit else "absent"
        out = self.broker.asked(
            asker, key=key, policy=policy, hit=hit, reason=reason, now=self.now, interactive=not prewarm
        )
        self.do(out)
        self.forget(key)

    def left(self, asker: Asker, *, cancel: bool = False) -> None:
        self.open.pop(asker, None)
        self.do(self.broker.left(asker, cancel=cancel))

    def cancel(self, key: str) -> None:
        self.do(self.broker.cancelled(key))

    def built(self, key: str, *, compiled: bool = True) -> None:
        self.gone(key)
        assert self.queue.finished(key, self.now)
        self.do(self.broker.finished(key, compiled=compiled))
        self.ended(key)

    def failed(self, key: str, kind: str = "compile-failed") -> None:
        self.gone(key)
        assert self.queue.finished(key, self.now)
        changed = kind == "toolchain-changed"
        if changed:
            for asker in self.broker.waiters(key):
                if asker not in self.again:
                    self.do(self.broker.left(asker))
                    self.again.add(asker)
                    self.looking[asker] = key
        self.do(self.broker.failed(key, Trouble(kind, "no"), now=self.now, remember=not changed))
        self.ended(key)

    def out_of_memory(self, key: str) -> None:
        held = self.held[key]
        if held.retried:
            self.failed(key, "compile-out-of-memory")
            return
        self.gone(key)
        assert self.queue.retry(key, self.now) is not None
        held.retried = True
        self.do(self.broker.requeued(key, Step("queued", "once more, alone")))
        self.admit()

    def drain(self) -> None:
        self.do(self.broker.drain())
        self.admit()

    def admit(self) -> None:
        if not self.queue.snapshot(self.now).waiting:
            return
        admission = self.queue.admit(self.capacity_now(), self.now)
        for refused in admission.refused:
            self.do(self.broker.failed(refused.job, Trouble("busy", "too large"), now=self.now, remember=False))
            self.forget(refused.job)
        for grant in admission.granted:
            self.start(grant)
        for waiting in self.queue.snapshot(self.now).waiting:
            step = Step("queued", f"position {waiting.position}", left=waiting.estimate, at=self.now)
            self.do(self.broker.advanced(waiting.demand.job, step))

    # --- how --------------------------------------------------------------------------------------------------------

    def capacity_now(self) -> Capacity:
        """The host less what jobs of ours have touched."""
        left = max(0, self.capacity.memory_available - sum(self.touched.values()))
        return Capacity(cores=self.capacity.cores, memory_total=self.capacity.memory_total, memory_available=left)

    def start(self, grant: Grant) -> None:
        key = grant.job
        assert key not in self.running, "two compiles of one key"
        demand = self.held[key].demand
        now = self.capacity_now()
        jobs = self.broker.jobs
        beside = jobs[key].interactive and not any(jobs[job].interactive for job in self.running)
        assert len(self.running) < fit.slots(now, self.figures).jobs + beside, "more than the slots"
        claims = {job: max(each.memory, self.touched[job]) for job, each in self.running.items()}
        rest = now.memory_available - sum(claims[job] - self.touched[job] for job in claims)
        fits = grant.memory <= rest and grant.memory + sum(claims.values()) <= now.memory_total
        assert fits or (grant.short == ("memory",) and not self.running), "more than the memory"
        assert demand.memory is None or grant.memory >= demand.memory
        if demand.memory is None:
            unknown = [job for job in self.running if self.held[job].demand.memory is None]
            hindering = [job for job in unknown if jobs[job].interactive or not jobs[key].interactive]
            assert not hindering, "two of unknown need"
        assert not any(self.held[job].retried for job in self.running), "beside one that must be alone"
        assert not (self.held[key].retried and self.running), "a second try that is not alone"
        self.broker.started(key)
        self.running[key] = grant
        self.touched[key] = 0
        self.started.append(key)

    def gone(self, key: str) -> None:
        """The job's process tree has ended."""
        del self.running[key], self.touched[key]
        self.dying.discard(key)

    def ended(self, key: str) -> None:
        self.forget(key)
        self.admit()

    def forget(self, key: str) -> None:
        if key not in self.broker.jobs:
            self.held.pop(key, None)

    def answer(self, asker: Asker, key: str, what: str) -> None:
        assert self.open.pop(asker, None) == key, "answered twice, after leaving, or wrongly"
        assert asker not in self.answers
        self.answers[asker] = what

    def do(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            match each:
                case Deliver():
                    self.answer(each.asker, each.key, each.source)
                case Refuse():
                    self.answer(each.asker, each.key, each.trouble.kind)
                case Tell():
                    for asker in each.askers:
                        assert self.open[asker] == each.key, "told somebody who does not wait"
                        self.told[asker] = each.step
                case Enqueue():
                    self.enqueue(each)
                case Promote():
                    assert self.queue.promote(each.key), "promoted what the queue does not know"
                case Withdraw():
                    assert self.queue.withdraw(each.key), "withdrew what does not wait"
                    self.forget(each.key)
                case Kill():
                    assert each.key in self.running.keys() - self.dying, "killed twice, or what does not run"
                    self.dying.add(each.key)

    def enqueue(self, instruction: Enqueue) -> None:
        key = instruction.key
        assert key not in self.running, "a job for a key whose compiler runs"
        assert self.open[instruction.asker] == key, "caused by nobody who waits"
        memory, estimate = self.needs.get(key, (GIB, None))
        demand = Demand(
            job=key,
            client=instruction.asker[0].hex(),
            user=USERS[instruction.asker[0]],
            submitted=self.now,
            interactive=instruction.interactive,
            memory=memory,
            estimate=estimate,
        )
        self.held[key] = Held(demand)
        answer = self.queue.submit(demand, self.capacity_now())
        if isinstance(answer, Accepted):
            self.admit()
            return
        self.do(self.broker.failed(key, Trouble("busy", answer.message), now=self.now, remember=False))
        self.forget(key)

    # --- what always holds ------------------------------------------------------------------------------------------

    def validate(self) -> None:
        self.broker.validate()
        self.queue.validate()
        jobs = self.broker.jobs
        shot = self.queue.snapshot(self.now)
        waiting = {each.demand.job: each.demand for each in shot.waiting}
        running = {each.demand.job: each.demand for each in shot.running}
        assert waiting.keys() == {key for key, job in jobs.items() if job.state == "queued"}, "who waits"
        assert running.keys() == self.running.keys() == {key for key, job in jobs.items() if job.state != "queued"}
        assert self.dying == {key for key, job in jobs.items() if job.state == "cancelling"}
        assert self.held.keys() == jobs.keys(), "the engine's books"
        for key, demand in waiting.items():
            assert demand.interactive == jobs[key].interactive, "somebody waits for a job that the queue holds back"
            assert demand.exclusive == self.held[key].retried
        for asker, key in self.open.items():
            assert key in jobs or asker in self.looking, "waits for nothing, for ever"
        assert not self.open.keys() & self.answers.keys()

    def settle(self) -> None:
        """Nothing more is asked and others leave the host alone: one completion each, and everybody is answered."""
        self.capacity = HOST
        self.touched = dict.fromkeys(self.touched, 0)
        for asker in list(self.looking):
            self.looked_up(asker, hit=False)
        for _ in range(3 * len(KEYS)):
            self.admit()
            self.validate()
            assert self.running or not self.held, "an idle host, and nobody starts"
            for key in list(self.running)[:1]:
                self.now += 1.0
                self.built(key)
        assert not self.open
        assert not self.held
        assert not self.broker.jobs
        assert not self.queue.snapshot(self.now).waiting


HOST = Capacity(cores=3, memory_total=12 * GIB, memory_available=12 * GIB)


class BrokerQueueMachine(RuleBasedStateMachine):
    """Events in any order."""

    @initialize(
        per_job=st.sampled_from([None, 1]),
        memory=st.lists(needs, min_size=len(KEYS), max_size=len(KEYS)),
        seconds=st.lists(st.sampled_from([None, 5.0, 60.0]), min_size=len(KEYS), max_size=len(KEYS)),
    )
    def begin(self, per_job: int | None, memory: list[int | None], seconds: list[float | None]) -> None:
        figures = Settings(cores_per_job=per_job, max_queued=QUEUED, overtakes=OVERTAKES, patience=PATIENCE)
        self.driver = Driver(HOST, figures)
        self.driver.needs = dict(zip(KEYS, zip(memory, seconds, strict=True), strict=True))
        self.drained = False

    # --- askers

    @rule(
        connection=connections,
        key=st.sampled_from(KEYS),
        policy=st.sampled_from(POLICIES),
        hit=st.sampled_from([False, False, True]),
        prewarm=st.booleans(),
    )
    def asks(self, connection: bytes, key: str, policy: Policy, hit: bool, prewarm: bool) -> None:
        asker = self.driver.ask(connection, key, policy, hit=hit, prewarm=prewarm)
        if policy in ("READONLY", "OFF") or (hit and policy == "ON"):
            assert asker in self.driver.answers, "made to wait"

    @rule(connection=connections, keys=st.sets(st.sampled_from(KEYS), min_size=2), prewarm=st.booleans())
    def asks_for_several(self, connection: bytes, keys: set[str], prewarm: bool) -> None:
        for key in sorted(keys):
            self.driver.ask(connection, key, prewarm=prewarm)

    @precondition(lambda self: self.driver.looking)
    @rule(data=st.data(), hit=st.booleans())
    def a_second_look_up_comes_back(self, data: st.DataObject, hit: bool) -> None:
        self.driver.looked_up(data.draw(st.sampled_from(sorted(self.driver.looking))), hit=hit)

    @precondition(lambda self: self.driver.open)
    @rule(data=st.data(), cancel=st.booleans())
    def leaves(self, data: st.DataObject, cancel: bool) -> None:
        self.driver.left(data.draw(st.sampled_from(sorted(self.driver.open))), cancel=cancel)

    @rule(connection=connections)
    def dies(self, connection: bytes) -> None:
        for asker in [asker for asker in self.driver.open if asker[0] == connection]:
            self.driver.left(asker)

    @rule(key=st.sampled_from(KEYS))
    def is_cancelled_by_name(self, key: str) -> None:
        self.driver.cancel(key)

    # --- jobs

    @precondition(lambda self: self.driver.running)
    @rule(
        data=st.data(),
        how=st.sampled_from(["built", "found", "failed", "memory", "memory", "changed"]),
        seconds=st.sampled_from([0.0, 1.0, 90.0]),
    )
    def ends(self, data: st.DataObject, how: str, seconds: float) -> None:
        driver = self.driver
        key = data.draw(st.sampled_from(sorted(driver.running)))
        driver.now += seconds
        match how:
            case "built" | "found":
                driver.built(key, compiled=how == "built")
            case "memory":
                driver.out_of_memory(key)
            case _:
                driver.failed(key, {"failed": "compile-failed", "changed": "toolchain-changed"}[how])

    @precondition(lambda self: self.driver.dying)
    @rule(data=st.data())
    def ends_as_it_was_told(self, data: st.DataObject) -> None:
        self.driver.failed(data.draw(st.sampled_from(sorted(self.driver.dying))), "compile-cancelled")

    @precondition(lambda self: self.driver.running)
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0, 1.5]))
    def touches_memory(self, data: st.DataObject, share: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.driver.running)))
        self.driver.touched[key] = int(self.driver.running[key].memory * share)

    # --- host and life

    @rule(
        cores=st.sampled_from([0.5, 1.0, 3.0, 3.0]),
        total=st.sampled_from([2, 8, 12, 12]),
        used=st.sampled_from([0, 0, 1, 11]),
    )
    def the_host_changes(self, cores: float, total: int, used: int) -> None:
        free = max(0, total - used) * GIB
        self.driver.capacity = Capacity(cores=cores, memory_total=total * GIB, memory_available=free)

    @rule(seconds=st.sampled_from([0.0, 2.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        driver = self.driver
        driver.now += seconds
        driver.admit()
        places = {each.demand.job: each.position for each in driver.queue.snapshot(driver.now).waiting}
        for key, position in places.items():
            for asker in driver.broker.waiters(key):
                assert driver.told[asker].detail == f"position {position}", "does not know its place"

    @precondition(lambda self: not self.driver.running)
    @rule()
    def nothing_runs_for_a_while(self) -> None:
        driver = self.driver
        for _ in range(3):
            driver.now += PATIENCE
            driver.admit()
            driver.validate()
        assert driver.running or not driver.held, "a host without jobs of ours, and nobody starts or is refused"

    @precondition(lambda self: not self.drained and self.driver.count > 8)
    @rule(really=st.sampled_from([False] * 5 + [True]))
    def drain(self, really: bool) -> None:
        if really:
            self.drained = True
            self.driver.drain()
            assert not self.driver.queue.snapshot(self.driver.now).waiting

    # --- what always holds

    @invariant()
    def all_agree(self) -> None:
        self.driver.validate()

    @invariant()
    def the_queue_is_bounded(self) -> None:
        retries = sum(held.retried for held in self.driver.held.values())
        assert len(self.driver.queue.snapshot(self.driver.now).waiting) <= QUEUED + retries

    @invariant()
    def nothing_starts_in_a_daemon_that_drains(self) -> None:
        assert not (self.drained and self.driver.queue.snapshot(self.driver.now).waiting)

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.settle()


TestBrokerQueueMachine = pytest.mark.timeout(180)(BrokerQueueMachine.TestCase)  # 5 s; shrinking takes longer
TestBrokerQueueMachine.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


VICTIMS: dict[str, dict[str, Any]] = {
    "small": {},
    "prewarm": {"prewarm": True},
    "large": {"memory": 10 * GIB},
    "large prewarm": {"memory": 10 * GIB, "prewarm": True},
    "unknown": {"memory": None},
    "out of memory once": {"dies": True},
    "out of memory once, prewarm": {"dies": True, "prewarm": True},
}


@pytest.mark.timeout(120)  # 2 s; shrinking takes longer
@given(
    kind=st.sampled_from(sorted(VICTIMS)),
    stream=st.lists(
        st.tuples(connections, st.booleans(), st.sampled_from([None, GIB, 5 * GIB]), st.booleans()),
        min_size=1,
        max_size=8,
    ),
)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_nobody_starves_whatever_keeps_coming_and_runs_out_of_memory(
    kind: str, stream: list[tuple[bytes, bool, int | None, bool]]
) -> None:
    """Requests without end, some of whose compiles want a second try alone: it is served when so many have ended."""
    driver = Driver(HOST, Settings(cores_per_job=1, max_queued=64, overtakes=OVERTAKES, patience=PATIENCE))
    victim = VICTIMS[kind]
    dying: set[str] = set()
    made = 0

    def more_come() -> None:
        nonlocal made
        for connection, prewarm, memory, dies in stream:
            key = f"s{made}"
            made += 1
            driver.needs[key] = (memory, None)
            if dies:
                dying.add(key)
            driver.ask(connection, key, prewarm=prewarm)

    more_come()
    driver.needs["victim"] = (victim.get("memory", GIB), None)
    if victim.get("dies"):
        dying.add("victim")
    asker = driver.ask(b"y", "victim", prewarm=victim.get("prewarm", False))
    groups, slots, tries = 2 * len(set(USERS.values())), 3, 2
    for _ in range(2 * tries * (OVERTAKES + groups + slots)):
        if asker in driver.answers:
            break
        more_come()
        driver.now += 1.0
        key = next(iter(driver.running))
        if key in dying and not driver.held[key].retried:
            driver.out_of_memory(key)
        else:
            driver.built(key)
        driver.validate()
    assert driver.answers.get(asker) == "compiled", driver.queue.snapshot(driver.now).waiting[:5]


# --- what the machine found -------------------------------------------------------------------------------------------


def test_a_prewarm_that_somebody_waits_for_by_now_is_tried_again_as_interactive() -> None:
    """It was promoted while it ran, when the queue held nothing of it, so its second try went behind everybody."""
    driver = Driver(HOST, Settings(jobs=1, patience=PATIENCE))
    driver.ask(b"v", "aa", prewarm=True)
    driver.ask(b"w", "aa")
    driver.ask(b"x", "ab", prewarm=True)
    driver.out_of_memory("aa")
    driver.validate()
    assert driver.started == ["aa", "aa"]
