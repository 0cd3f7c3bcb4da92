"""The broker against a model of what its engine and its askers see, in any order of events."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

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

KEYS = ("aa", "ab")
POLICIES: tuple[Policy, ...] = ("ON", "OFF", "REDO", "READONLY")
BACKOFF = 5.0

keys = st.sampled_from(KEYS)
connections = st.sampled_from([b"w", b"x"])


class BrokerMachine(RuleBasedStateMachine):
    """``queued``, ``running`` and ``dying`` are what an engine holds that does what it is told, and nothing more."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker(backoff=BACKOFF)
        self.now = 0.0
        self.count = 0
        self.open: dict[Asker, str] = {}
        """Who asked, was not answered and did not leave."""
        self.policies: dict[Asker, Policy] = {}
        self.told: dict[Asker, list[str]] = {}
        """The stages that each heard of, as they came."""
        self.queued: set[str] = set()
        self.running: set[str] = set()
        self.dying: set[str] = set()
        self.drained = False
        self.enqueued: Counter[str] = Counter()

    # --- the engine's part ------------------------------------------------------------------------------------------

    def do(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            match each:
                case Deliver():
                    assert self.open.pop(each.asker, None) == each.key, "answered twice, after leaving, or wrongly"
                    assert self.policies[each.asker] != "OFF"
                    assert each.source == "hit" or self.policies[each.asker] != "READONLY"
                    assert not (each.source == "hit" and self.policies[each.asker] == "REDO")
                case Refuse():
                    assert self.open.pop(each.asker, None) == each.key, "answered twice, after leaving, or wrongly"
                    assert each.trouble.message
                case Enqueue():
                    assert each.key not in self.queued | self.running, "two jobs for a key"
                    assert self.open[each.asker] == each.key, "caused by nobody who waits"
                    assert not self.drained, "a new job in a daemon that drains"
                    assert self.policies[each.asker] in ("ON", "REDO")
                    self.queued.add(each.key)
                    self.enqueued[each.key] += 1
                case Promote():
                    assert each.key in (self.queued | self.running) - self.dying
                case Withdraw():
                    assert each.key in self.queued
                    self.queued.remove(each.key)
                case Kill():
                    assert each.key in self.running
                    assert each.key not in self.dying, "killed twice"
                    self.dying.add(each.key)
                case Tell():
                    assert each.askers
                    assert each.key in self.queued | self.running
                    for asker in each.askers:
                        assert self.open[asker] == each.key, "told somebody who does not wait"
                        self.told.setdefault(asker, []).append(each.step.stage)

    def start(self, key: str) -> None:
        self.queued.remove(key)
        self.running.add(key)
        self.broker.started(key)

    def ended(self, key: str) -> None:
        self.running.remove(key)
        self.dying.discard(key)

    # --- events -----------------------------------------------------------------------------------------------------

    @rule(
        target=waiting,
        key=keys,
        policy=st.sampled_from(POLICIES),
        hit=st.booleans(),
        interactive=st.booleans(),
        connection=connections,
    )
    def asked(self, key: str, policy: Policy, hit: bool, interactive: bool, connection: bytes) -> Any:
        return self.ask(key, policy, hit=hit, interactive=interactive, connection=connection)

    @rule(target=waiting, key=keys, redo=st.booleans(), interactive=st.booleans(), starts=st.booleans())
    def asked_without_an_entry(self, key: str, redo: bool, interactive: bool, starts: bool) -> Any:
        asker = self.ask(key, "REDO" if redo else "ON", hit=False, interactive=interactive, connection=b"w")
        if starts and key in self.queued:
            self.start(key)
        return asker

    def ask(self, key: str, policy: Policy, *, hit: bool, interactive: bool, connection: bytes) -> Any:
        self.count += 1
        asker = (connection, self.count)
        self.open[asker] = key
        self.policies[asker] = policy
        before = self.enqueued.total()
        self.do(
            self.broker.asked(
                asker,
                key=key,
                policy=policy,
                hit=hit,
                reason="" if hit else "absent",
                now=self.now,
                interactive=interactive,
            )
        )
        if policy in ("READONLY", "OFF") or (policy == "ON" and hit):
            assert self.enqueued.total() == before, "compiled what must not be compiled"
            assert asker not in self.open, "made to wait"
        return asker if asker in self.open else multiple()

    @rule(asker=consumes(waiting), cancel=st.booleans())
    def left(self, asker: Asker, cancel: bool) -> None:
        key = self.open.pop(asker, None)
        alone = key is not None and key not in self.open.values()
        out = self.broker.left(asker, cancel=cancel)
        if key is None:
            assert out == []
        elif alone and key in self.queued:
            assert out == [Withdraw(key)]
        elif alone and cancel and key not in self.dying:
            assert out == [Kill(key)]
        else:
            assert out == []
        self.do(out)

    @rule(connection=connections)
    def connection_gone(self, connection: bytes) -> None:
        for asker in [asker for asker in self.open if asker[0] == connection]:
            del self.open[asker]
            self.do(self.broker.left(asker))

    @precondition(lambda self: self.queued or self.running)
    @rule(key=keys)
    def cancelled_by_name(self, key: str) -> None:
        self.do(self.broker.cancelled(key))

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def admitted(self, data: st.DataObject) -> None:
        self.start(data.draw(st.sampled_from(sorted(self.queued))))

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def refused_by_the_queue(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.queued)))
        self.queued.remove(key)
        self.do(self.broker.failed(key, Trouble("busy", "full"), now=self.now, remember=False))

    @rule(key=keys, stage=st.sampled_from(["queued", "start", "lower"]))
    def advanced(self, key: str, stage: str) -> None:
        self.do(self.broker.advanced(key, Step(stage)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), compiled=st.booleans())
    def finished(self, data: st.DataObject, compiled: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.ended(key)
        self.do(self.broker.finished(key, compiled=compiled))
        assert key not in self.open.values(), "somebody still waits for what is there"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.ended(key)
        self.do(self.broker.failed(key, Trouble("compile-failed", "no"), now=self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def ran_out_of_memory(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.ended(key)
        self.queued.add(key)  # the queue takes it back first, as in Engine._failed
        self.do(self.broker.requeued(key, Step("queued", "once more, alone")))

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.drained and self.count > 8)
    @rule(really=st.sampled_from([False] * 7 + [True]))
    def drain(self, really: bool) -> None:
        if really:
            self.drained = True
            self.do(self.broker.drain())
            assert not self.queued

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_broker_is_sound(self) -> None:
        self.broker.validate()

    @invariant()
    def the_broker_and_its_engine_agree(self) -> None:
        states = {key: job.state for key, job in self.broker.jobs.items()}
        assert {key for key, state in states.items() if state == "queued"} == self.queued
        assert {key for key, state in states.items() if state == "running"} == self.running - self.dying
        assert {key for key, state in states.items() if state == "cancelling"} == self.dying

    @invariant()
    def who_waits_knows_the_latest_stage_and_those_before_it(self) -> None:
        for job in self.broker.jobs.values():
            for asker in job.waiters:
                heard = self.told.get(asker, [])
                assert heard[-1:] == list(job.history)[-1:]
                assert set(job.history) <= set(heard)

    @invariant()
    def who_waits_waits_for_a_job(self) -> None:
        for key in self.open.values():
            assert key in self.queued | self.running, "waits for nothing, for ever"
        for key in self.queued:
            assert key in self.open.values(), "queued for nobody"

    def teardown(self) -> None:
        """However it went: when all jobs have ended, everybody is answered."""
        for _ in range(10):
            for key in sorted(self.queued):
                self.start(key)
            for key in sorted(self.running):
                self.ended(key)
                self.do(self.broker.failed(key, Trouble("compile-failed", "no"), now=self.now))
        assert not self.open
        assert not self.broker.jobs
        self.broker.validate()


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
