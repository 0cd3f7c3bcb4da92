"""The queue under any sequence of events: never over the host, nobody starves, what was withdrawn never starts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlc_jitd.schedule.host import GIB, Capacity, Gpu
from mlc_jitd.schedule.jobs import Accepted, Admission, Busy, Demand, Grant, Refused, Settings
from mlc_jitd.schedule.queue import Queue

USERS = 3
OVERTAKES = 4
QUEUED = 12
PATIENCE = 30.0

sizes = st.one_of(st.none(), st.integers(0, 4 * GIB), st.sampled_from([GIB, 8 * GIB, 30 * GIB, 64 * GIB]))


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "client": draw(st.sampled_from("ABC")),
        "user": draw(st.integers(1, USERS)),
        "interactive": draw(st.booleans()),
        "memory": draw(sizes),
        "estimate": draw(st.sampled_from([None, 0.0, 5.0, 100.0])),
        "gpu": draw(st.sampled_from([False, False, True])),
        "gpu_memory": draw(st.sampled_from([None, 0, 20 * GIB, 100 * GIB])),
        "exclusive": draw(st.sampled_from([False, False, False, True])),
    }


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue and keeps its own books."""

    @initialize(
        cores=st.sampled_from([0.5, 1.0, 3.0, 8.0, 16.0, 64.0]),
        memory=st.sampled_from([GIB, 4 * GIB, 32 * GIB]),
        cards=st.lists(st.sampled_from([8, 24, 80]), max_size=3),
        jobs=st.sampled_from([None, None, 3]),
    )
    def start(self, cores: float, memory: int, cards: list[int], jobs: int | None) -> None:
        self.settings = Settings(jobs=jobs, max_queued=QUEUED, overtakes=OVERTAKES, patience=PATIENCE)
        self.queue = Queue(self.settings)
        self.cores, self.memory, self.cards = cores, memory, cards
        self.outside = 0
        self.card_use = [0] * len(cards)
        self.now = 1000.0
        self.count = 0
        self.waiting: dict[str, Demand] = {}
        self.running: dict[str, tuple[Demand, Grant]] = {}
        self.touched: dict[str, int] = {}
        self.gone: set[str] = set()
        self.passed: dict[str, int] = {}
        self.arrived: dict[str, int] = {}
        self.extra = 0

    def capacity(self) -> Capacity:
        used = sum(self.touched.values())
        cards = tuple(
            Gpu(index=n, uuid=f"GPU-{n}", model="x", memory_total=size * GIB, memory_free=max(0, size * GIB - use))
            for n, (size, use) in enumerate(zip(self.cards, self.card_use, strict=True))
        )
        return Capacity(
            cores=self.cores,
            memory_total=self.memory,
            memory_available=max(0, self.memory - self.outside - used),
            gpus=cards,
        )

    # --- rules

    @rule(wish=wishes())
    def submit(self, wish: dict[str, Any]) -> None:
        self.count += 1
        demand = Demand(job=f"j{self.count}", submitted=self.now, **wish)
        answer = self.queue.submit(demand, self.capacity())
        if isinstance(answer, Accepted):
            assert 1 <= answer.position <= len(self.waiting) + 1
            self.waiting[demand.job] = demand
            self.passed[demand.job] = 0
            self.arrived[demand.job] = self.count
        elif isinstance(answer, Busy):
            assert len(self.waiting) >= min(answer.limit, answer.queued) >= 1
        else:
            assert isinstance(answer, Refused)
            assert answer.needed > answer.usable or answer.reason == "no-gpu"

    @rule(seconds=st.sampled_from([0.0, 1.0, 31.0]), data=st.data())
    def admit(self, seconds: float, data: st.DataObject) -> None:
        self.now += seconds
        told = {job: use for job, use in self.touched.items() if data.draw(st.booleans())}
        self.book(self.queue.admit(self.capacity(), self.now, told))

    def book(self, admission: Admission) -> None:
        for refused in admission.refused:
            del self.waiting[refused.job]
        for grant in admission.granted:
            assert grant.job not in self.gone
            first = self.oldest()
            demand = self.waiting.pop(grant.job)
            for job in first - {grant.job}:
                self.passed[job] += 1
            held = sum(max(g.memory, self.touched[j]) for j, (_, g) in self.running.items())
            assert held + grant.memory <= self.memory
            free = self.capacity().memory_available - sum(
                max(0, g.memory - self.touched[j]) for j, (_, g) in self.running.items()
            )
            assert grant.memory <= free or (grant.short and not self.running)
            if demand.memory is not None:
                assert grant.memory >= demand.memory
            if demand.gpu:
                assert grant.device is not None
                assert grant.device not in {g.device for _, g in self.running.values()}
                card = int(grant.device.removeprefix("GPU-"))
                need = self.settings.gpu_context if demand.gpu_memory is None else demand.gpu_memory
                assert self.cards[card] * GIB >= need
                assert max(0, self.cards[card] * GIB - self.card_use[card]) >= need or "gpu" in grant.short
            assert not any(d.exclusive for d, _ in self.running.values())
            assert not (demand.exclusive and self.running)
            self.running[grant.job] = (demand, grant)
            self.touched[grant.job] = 0

    def oldest(self) -> set[str]:
        groups: dict[tuple[bool, int], str] = {}
        for job, demand in sorted(self.waiting.items(), key=lambda e: (e[1].submitted, self.arrived[e[0]])):
            groups.setdefault((demand.interactive, demand.user), job)
        return set(groups.values())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 5.0, 200.0]), how=st.sampled_from(["done", "done", "memory"]))
    def finish(self, data: st.DataObject, seconds: float, how: str) -> None:
        job = data.draw(st.sampled_from(sorted(self.running)))
        self.now += seconds
        demand, _ = self.running.pop(job)
        del self.touched[job]
        if how == "memory" and not demand.exclusive:
            assert self.queue.retry(job, self.now) is not None
            self.waiting[job] = dataclasses.replace(demand, exclusive=True)
            self.passed[job] = 0
            self.count += 1
            self.arrived[job] = self.count
            self.extra += 1
        else:
            assert self.queue.finished(job, self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.withdraw(job)
        del self.waiting[job]
        self.gone.add(job)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted([*self.waiting, *self.running])))
        assert self.queue.promote(job)
        if job in self.waiting:
            self.waiting[job] = dataclasses.replace(self.waiting[job], interactive=True)
        else:
            demand, grant = self.running[job]
            self.running[job] = (dataclasses.replace(demand, interactive=True), grant)

    @rule(outside=st.integers(0, 32 * GIB))
    def others_use_memory(self, outside: int) -> None:
        self.outside = outside

    @precondition(lambda self: self.cards)
    @rule(data=st.data())
    def others_use_a_gpu(self, data: st.DataObject) -> None:
        card = data.draw(st.integers(0, len(self.cards) - 1))
        self.card_use[card] = data.draw(st.sampled_from([0, 1, 70])) * GIB

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0, 1.5]))
    def a_job_touches_memory(self, data: st.DataObject, share: float) -> None:
        job = data.draw(st.sampled_from(sorted(self.running)))
        self.touched[job] = int(self.running[job][1].memory * share)

    # --- what always holds

    @invariant()
    def the_queue_agrees_with_itself(self) -> None:
        self.queue.validate()

    @invariant()
    def never_more_than_the_slots(self) -> None:
        slots = self.queue.snapshot(self.now).slots
        assert len(self.running) <= slots.jobs + 1, "one beside those that nobody waits for"
        if self.settings.jobs is None and len(self.running) <= slots.jobs:
            assert sum(g.cores for _, g in self.running.values()) <= max(1.0, self.cores)

    @invariant()
    def the_bound_holds(self) -> None:
        assert len(self.waiting) <= QUEUED + self.extra

    @invariant()
    def the_snapshot_is_what_happened(self) -> None:
        snapshot = self.queue.snapshot(self.now)
        assert [w.position for w in snapshot.waiting] == list(range(1, len(self.waiting) + 1))
        assert {w.demand.job: w.demand for w in snapshot.waiting} == self.waiting
        assert {r.demand.job for r in snapshot.running} == self.running.keys()
        for each in snapshot.waiting:
            assert each.estimate is None or (each.estimate >= 0 and math.isfinite(each.estimate))
        for job in [*self.waiting, *self.gone]:
            place = self.queue.position(job)
            assert (place is None) == (job in self.gone)

    @invariant()
    def nobody_is_passed_without_end(self) -> None:
        for job, demand in self.waiting.items():
            if not demand.gpu and demand.memory is not None:
                assert self.passed[job] <= OVERTAKES + 2 * USERS + 2, (job, self.passed[job])

    def teardown(self) -> None:
        """When nothing more comes and others leave the host alone, everybody gets a turn, one completion each."""
        if not hasattr(self, "queue"):
            return
        self.outside, self.card_use = 0, [0] * len(self.cards)
        self.touched = dict.fromkeys(self.touched, 0)
        for _ in range(len(self.waiting) + len(self.running) + 1):
            self.book(self.queue.admit(self.capacity(), self.now))
            self.queue.validate()
            if self.running:
                job = next(iter(self.running))
                self.queue.finished(job, self.now)
                del self.running[job], self.touched[job]
        assert not self.waiting
        assert not self.running


TestQueueMachine = pytest.mark.timeout(120)(QueueMachine.TestCase)  # 2 s, but shrinking a failure takes longer
TestQueueMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

VICTIMS: dict[str, dict[str, Any]] = {
    "large": {"memory": 16 * GIB},
    "alone": {"exclusive": True},
    "prewarm": {"interactive": False},
    "large prewarm": {"interactive": False, "memory": 16 * GIB},
    "unknown": {"memory": None},
    "gpu": {"gpu": True},
    "small": {},
}


@pytest.mark.timeout(120)  # the same
@given(
    kind=st.sampled_from(sorted(VICTIMS)),
    stream=st.lists(
        st.tuples(
            st.sampled_from("ABC"),
            st.integers(1, USERS),
            st.booleans(),
            st.sampled_from([None, GIB, 3 * GIB]),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_nobody_starves_under_a_stream_that_never_ends(
    kind: str, stream: list[tuple[str, int, bool, int | None, bool]]
) -> None:
    """Whatever keeps coming, to a host that is never idle: a bounded number of completions later it has started."""
    card = Gpu(index=0, uuid="GPU-0", model="x", memory_total=80 * GIB, memory_free=80 * GIB)
    capacity = Capacity(cores=16, memory_total=16 * GIB, memory_available=16 * GIB, gpus=(card,))
    queue = Queue(Settings(overtakes=OVERTAKES))
    count = 0

    def come(job: str, **more: Any) -> None:
        queue.submit(Demand(job=job, **{"user": 9, "client": "V", "submitted": 0.0, "memory": GIB, **more}), capacity)

    def more_come() -> None:
        nonlocal count
        for client, user, interactive, memory, gpu in stream:
            count += 1
            come(f"s{count}", client=client, user=user, interactive=interactive, memory=memory, gpu=gpu, submitted=1.0)

    more_come()
    running = [grant.job for grant in queue.admit(capacity, 1.0).granted]
    come("victim", **VICTIMS[kind], submitted=2.0)
    slots, groups = 4, 2 * USERS + 1
    for completions in range(2 * (OVERTAKES + groups + slots)):
        if "victim" in running:
            return
        more_come()
        running += [grant.job for grant in queue.admit(capacity, 2.0 + completions).granted]
        if "victim" not in running:
            queue.finished(running.pop(0), 2.0 + completions)
    raise AssertionError(
        f"still waiting: {[(w.demand.job, w.blocked, w.passed) for w in queue.snapshot(0.0).waiting][:9]}"
    )
