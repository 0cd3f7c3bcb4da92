"""The queue's rules one by one, on values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from mlc_jitd.schedule import fit
from mlc_jitd.schedule.fairness import REMEMBERED, Accounts
from mlc_jitd.schedule.host import GIB, Capacity, Device, Gpu
from mlc_jitd.schedule.jobs import Accepted, Busy, Demand, Grant, Refused, Running, Settings
from mlc_jitd.schedule.queue import Queue


def host(cores: float = 1, total: int = 64 * GIB, available: int | None = None, gpus: tuple[Gpu, ...] = ()) -> Capacity:
    free = total if available is None else available
    return Capacity(cores=cores, memory_total=total, memory_available=free, gpus=gpus)


def gpu(index: int, free: float = 80, total: float = 80) -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{index}", model="x", memory_total=int(total * GIB), memory_free=int(free * GIB))


_arrivals = iter(range(1, 1 << 30))


def demand(job: str, client: str | None = None, **more: Any) -> Demand:
    given: dict[str, Any] = {"user": 1, "submitted": float(next(_arrivals)), "memory": GIB, **more}
    return Demand(job=job, client=client or job, **given)


def submit(queue: Queue, *demands: Demand, capacity: Capacity | None = None) -> None:
    for each in demands:
        assert isinstance(queue.submit(each, capacity or host()), Accepted)
        queue.validate()


def started(queue: Queue, capacity: Capacity | None = None, now: float = 0.0, **used: int) -> list[str]:
    admission = queue.admit(capacity or host(), now, used)
    queue.validate()
    return [grant.job for grant in admission.granted]


def run_dry(queue: Queue, capacity: Capacity | None = None) -> str:
    """Who starts, one after the other, on a host with one slot."""
    order: list[str] = []
    while granted := started(queue, capacity, now=60.0 * len(order)):
        order += granted
        assert queue.finished(granted[0], 60.0 * len(order))
    return " ".join(order)


# --- order ----------------------------------------------------------------------------------------------------------


def test_by_age_where_nothing_else_counts() -> None:
    queue = Queue()
    submit(queue, demand("a", submitted=2.0), demand("b", submitted=1.0), demand("c", submitted=2.0))
    assert [queue.position(job) for job in "abc"] == [2, 1, 3]
    assert run_dry(queue) == "b a c"


def test_interactive_before_prewarm_and_promotion() -> None:
    queue = Queue()
    submit(queue, demand("p", interactive=False), demand("q", interactive=False), demand("a"))
    assert [queue.position(job) for job in "pqa"] == [2, 3, 1]
    assert queue.promote("q")
    assert [queue.position(job) for job in "pqa"] == [3, 1, 2]
    assert not queue.promote("nobody")


def test_a_promoted_running_job_goes_on() -> None:
    queue = Queue()
    submit(queue, demand("p", interactive=False))
    assert started(queue) == ["p"]
    assert queue.promote("p")
    assert queue.snapshot(0.0).running[0].demand.interactive


def test_one_that_somebody_waits_for_starts_beside_those_that_nobody_does() -> None:
    queue = Queue()
    submit(queue, demand("p", interactive=False))
    assert started(queue) == ["p"]
    submit(queue, demand("q", interactive=False), demand("a"), demand("b"))
    assert started(queue) == ["a"], "one"
    queue.finished("p", 1.0)
    assert started(queue) == []
    queue.finished("a", 2.0)
    assert started(queue) == ["b"]


def test_memory_is_held_for_those_that_nobody_waits_for_too() -> None:
    queue, small = Queue(), host(total=8 * GIB)
    submit(queue, demand("p", interactive=False, memory=6 * GIB), capacity=small)
    assert started(queue, small) == ["p"]
    submit(queue, demand("a", memory=3 * GIB), capacity=small)
    assert started(queue, small) == []


def test_a_client_with_many_jobs_does_not_keep_one_with_few_waiting() -> None:
    queue = Queue()
    submit(queue, *(demand(f"a{n}", "A") for n in range(5)), demand("b0", "B"), demand("b1", "B"))
    assert queue.position("b0") == 2
    assert run_dry(queue).split()[:4] == ["a0", "b0", "a1", "b1"]


def test_users_are_fair_however_many_clients_they_have() -> None:
    queue = Queue()
    submit(
        queue, *(demand(f"a{n}", f"A{n}", user=1) for n in range(6)), *(demand(f"b{n}", "B", user=2) for n in range(3))
    )
    assert [queue.position(job) for job in ("a0", "b0", "a1", "b1", "a2", "b2", "a3")] == [1, 2, 3, 4, 5, 6, 7]
    assert run_dry(queue).split()[:6] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_costly_pay_for_what_they_took() -> None:
    queue = Queue()
    submit(
        queue,
        *(demand(f"a{n}", "A", estimate=300.0) for n in range(3)),
        *(demand(f"b{n}", "B", estimate=100.0) for n in range(6)),
    )
    order: list[str] = []
    now = 0.0
    while granted := started(queue, now=now):
        order += granted
        now += 300.0 if granted[0].startswith("a") else 100.0
        queue.finished(granted[0], now)
    assert order[:6] == ["a0", "b0", "b1", "b2", "a1", "b3"]


def test_an_estimate_that_was_wrong_is_settled() -> None:
    queue = Queue()
    submit(
        queue, demand("a0", "A", estimate=1.0), demand("b0", "B", estimate=10.0), demand("a1", "A"), demand("b1", "B")
    )
    assert started(queue) == ["a0"]
    queue.finished("a0", 1000.0)
    assert [queue.position(job) for job in ("b0", "b1", "a1")] == [1, 2, 3]


def test_jobs_that_fail_at_once_take_turns_too() -> None:
    queue = Queue()
    submit(queue, *(demand(f"a{n}", "A") for n in range(9)), demand("b0", "B"))
    assert started(queue) == ["a0"]
    queue.finished("a0", 0.0)
    assert started(queue) == ["b0"]


def test_asking_one_at_a_time_gives_no_advantage() -> None:
    queue = Queue()
    submit(queue, *(demand(f"a{n}", "A", estimate=10.0) for n in range(20)))
    submit(queue, demand("b0", "B", estimate=100.0))
    order: list[str] = []
    now = 0.0
    while len(order) < 14:
        (job,) = started(queue, now=now)
        order.append(job)
        now += 100.0 if job.startswith("b") else 10.0
        queue.finished(job, now)
        if job.startswith("b"):
            submit(queue, demand(f"b{int(job[1:]) + 1}", "B", estimate=100.0))
    assert sum(job.startswith("b") for job in order) == 2


def test_accounts_of_those_who_left_are_bounded() -> None:
    accounts: Accounts[int] = Accounts()
    accounts.enter(-1)
    for key in range(3 * REMEMBERED):
        accounts.enter(key)
        accounts.charge(key, 1.0)
        accounts.leave(key)
        accounts.validate({-1: 1})


# --- nobody starves -------------------------------------------------------------------------------------------------


def test_prewarm_starts_after_eight_were_served_before_it() -> None:
    queue = Queue()
    submit(queue, demand("p", interactive=False), *(demand(f"a{n}") for n in range(20)))
    assert run_dry(queue).split().index("p") == 8


def test_a_large_job_is_passed_by_small_ones_only_so_often() -> None:
    queue, four = Queue(), host(cores=16, total=16 * GIB)
    submit(queue, demand("s0"), demand("large", memory=16 * GIB), capacity=four)
    running = started(queue, four)
    passed = 0
    while passed < 8:  # there is always a small one running when another ends
        submit(queue, demand(f"s{passed + 1}"), capacity=four)
        granted = started(queue, four)
        assert len(granted) == 1
        assert queue.position("large") == 1
        passed += 1
        running += granted
        queue.finished(running.pop(0), float(passed))
    submit(queue, demand("late"), capacity=four)
    assert started(queue, four) == []
    assert [w.blocked for w in queue.snapshot(0.0).waiting] == ["memory", "turn"]
    assert len(running) == 1
    queue.finished(running[0], 100.0)
    assert started(queue, four) == ["large"]


def test_a_job_that_waits_for_a_gpu_does_not_stop_the_others() -> None:
    queue, busy = Queue(), host(cores=16, gpus=(gpu(0, free=0.1),))
    submit(queue, demand("g", gpu=True), capacity=busy)
    for n in range(40):
        submit(queue, demand(f"s{n}"), capacity=busy)
        assert started(queue, busy) == [f"s{n}"]
        queue.finished(f"s{n}", 0.0)
    assert queue.snapshot(0.0).waiting[0].blocked == "gpu"
    submit(queue, demand("h", gpu=True, gpu_memory=0), capacity=busy)
    assert started(queue, busy) == [], "the device is kept for the one whose turn it is"
    assert started(queue, host(cores=16, gpus=(gpu(0),))) == ["g"]


def test_the_next_of_unknown_need_does_not_stop_the_others() -> None:
    queue, eight = Queue(), host(cores=32)
    submit(queue, demand("u", memory=None), demand("v", memory=None), capacity=eight)
    assert started(queue, eight) == ["u"]
    for n in range(20):
        submit(queue, demand(f"s{n}"), capacity=eight)
        assert started(queue, eight) == [f"s{n}"]
        queue.finished(f"s{n}", 0.0)
    queue.finished("u", 0.0)
    assert started(queue, eight) == ["v"]


def test_a_prewarm_of_unknown_need_keeps_nobody_waiting() -> None:
    queue, one, tight = Queue(), host(cores=4), host(cores=4, available=3 * GIB)
    submit(queue, demand("p", memory=None, interactive=False), capacity=one)
    assert started(queue, one) == ["p"]
    submit(queue, demand("a", memory=None), demand("q", memory=None, interactive=False), capacity=one)
    assert started(queue, tight) == [], "not beside each other where memory is short"
    assert started(queue, one) == ["a"]
    queue.promote("p")
    submit(queue, demand("b", memory=None), capacity=one)
    assert started(queue, one) == []
    queue.finished("a", 0.0)
    assert started(queue, one) == [], "somebody waits for p by now"
    queue.finished("p", 0.0)
    assert started(queue, one) == ["b"]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_what_a_running_job_has_not_touched_stays_its_own() -> None:
    queue = Queue()
    before, after = host(8, 10 * GIB, 10 * GIB), host(8, 10 * GIB, 7 * GIB)
    submit(queue, demand("a", memory=4 * GIB), demand("b", memory=5 * GIB), capacity=before)
    assert started(queue, before) == ["a", "b"]
    queue.finished("b", 0.0)
    submit(queue, demand("c", memory=5 * GIB), capacity=before)
    assert started(queue, after) == [], "3 GiB went somewhere: to a, for all anybody knows"
    assert started(queue, after, a=3 * GIB) == ["c"]


def test_a_job_that_took_more_than_it_said() -> None:
    queue, ten = Queue(), host(8, 10 * GIB)
    submit(queue, demand("a", memory=1 * GIB), demand("b", memory=5 * GIB), capacity=ten)
    (first,) = queue.admit(host(4, 10 * GIB), 0.0).granted
    assert first.job == "a"
    assert started(queue, host(8, 10 * GIB, 10 * GIB), a=6 * GIB) == [], "a stale figure does not count twice"


def test_patience_on_an_idle_host_that_others_filled() -> None:
    queue, full = Queue(), host(8, 10 * GIB, 1 * GIB)
    submit(queue, demand("a", memory=4 * GIB), demand("b", memory=4 * GIB), capacity=full)
    assert started(queue, full, now=100.0) == []
    assert started(queue, full, now=129.9) == []
    (grant,) = queue.admit(full, 130.0).granted
    assert (grant.job, grant.short, grant.memory) == ("a", ("memory",), 4 * GIB)
    assert started(queue, full, now=500.0) == [], "only ever one"


def test_going_without_memory_is_for_an_idle_host_only() -> None:
    full, wish = host(8, 10 * GIB, 0), demand("a")
    for alone, answer in ((True, Grant), (False, str)):
        ours = () if alone else (Running(demand=demand("b"), grant=Grant(job="b", cores=1, memory=GIB), started=0.0),)
        left = fit.room(full, Settings(), ours, {})
        assert isinstance(fit.fit(wish, left, full, Settings(), without_memory=True), answer)


def test_patience_starts_anew_when_something_of_ours_ran() -> None:
    queue, full = Queue(), host(8, 10 * GIB, 2 * GIB)
    submit(queue, demand("a", memory=4 * GIB), capacity=full)
    assert started(queue, full, now=0.0) == []
    submit(queue, demand("s"), capacity=full)
    assert started(queue, full, now=20.0) == ["s"]
    queue.finished("s", 29.0)
    assert started(queue, full, now=29.0) == []
    assert started(queue, full, now=58.9) == []
    assert started(queue, full, now=59.0) == ["a"]


def test_too_large_for_the_host_says_the_figures() -> None:
    answer = Queue().submit(demand("a", memory=100 * GIB), host(8, 10 * GIB))
    assert answer == Refused(job="a", reason="memory", needed=100 * GIB, usable=10 * GIB)
    assert "102,400 MiB" in answer.message
    assert "10,240 MiB" in answer.message


def test_a_host_that_shrank_drops_what_it_can_never_run() -> None:
    queue, small = Queue(), host(8, 2 * GIB)
    submit(queue, demand("a", memory=8 * GIB), demand("b"))
    assert started(queue, small, now=0.0) == ["b"]
    assert queue.admit(small, 29.0).refused == ()
    (refused,) = queue.admit(small, 30.0).refused
    assert (refused.job, refused.usable) == ("a", 2 * GIB)
    assert queue.position("a") is None


def test_a_host_that_shrank_for_a_moment_drops_nothing() -> None:
    queue, card = Queue(), host(8, gpus=(gpu(0),))
    submit(queue, demand("g", gpu=True), capacity=card)
    queue.admit(host(8), 0.0)
    assert started(queue, card, now=40.0) == ["g"]


# --- again ---------------------------------------------------------------------------------------------------------


def test_a_job_that_gave_its_place_back_comes_back_with_its_age_past_all_bounds() -> None:
    queue = Queue(Settings(jobs=1, max_queued=1))
    submit(queue, early := demand("a", submitted=0.0))
    assert started(queue, host(8)) == ["a"]
    assert queue.finished("a", 1.0), "another host compiles it"
    submit(queue, demand("b", submitted=5.0))
    assert isinstance(queue.submit(demand("c", submitted=6.0), host(8)), Busy)
    assert isinstance(queue.again(early), Accepted)
    assert started(queue, host(8), now=10.0) == ["a"]
    with pytest.raises(ValueError, match="in the queue already"):
        queue.again(early)


# --- alone ----------------------------------------------------------------------------------------------------------


def test_a_retry_runs_alone_with_all_the_memory_and_keeps_its_age() -> None:
    queue, big = Queue(), host(16, 32 * GIB)
    submit(queue, demand("a"), demand("b"), demand("c"), capacity=big)
    assert started(queue, big) == ["a", "b", "c"]
    assert queue.retry("a", 10.0) == Accepted(job="a", position=1)
    assert queue.retry("nobody", 10.0) is None
    assert started(queue, big) == []
    queue.finished("b", 11.0)
    assert started(queue, big) == []
    queue.finished("c", 12.0)
    submit(queue, demand("d"), capacity=big)
    (grant,) = queue.admit(big, 12.0).granted
    assert (grant.job, grant.memory) == ("a", 32 * GIB)
    assert started(queue, big) == []
    queue.finished("a", 13.0)
    assert started(queue, big) == ["d"]


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_one_job_per_device_and_only_devices_that_will_do() -> None:
    queue, cards = Queue(), host(64, gpus=(gpu(0), gpu(1, free=79)))
    submit(queue, demand("a", gpu=True, devices=("GPU-1",)), *(demand(n, gpu=True) for n in "bc"), capacity=cards)
    grants = queue.admit(cards, 0.0).granted
    assert [(g.job, g.device) for g in grants] == [("a", "GPU-1"), ("b", "GPU-0")]
    queue.finished("a", 1.0)
    assert queue.admit(cards, 1.0).granted[0].device == "GPU-1"


def test_a_partitioned_gpu_is_its_partitions() -> None:
    parts = tuple(Device(uuid=f"MIG-{n}", name="1g", memory_total=10 * GIB, memory_free=10 * GIB) for n in (0, 1))
    cards = host(64, gpus=(dataclasses.replace(gpu(0), partitions=parts),))
    queue = Queue()
    submit(queue, *(demand(n, gpu=True) for n in "abc"), capacity=cards)
    assert [g.device for g in queue.admit(cards, 0.0).granted] == ["MIG-0", "MIG-1"]
    answer = queue.submit(demand("d", gpu=True, gpu_memory=20 * GIB), cards)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.usable) == ("gpu-memory", 10 * GIB)


@pytest.mark.parametrize("devices", [(), ("GPU-7",)])
def test_no_such_gpu(devices: tuple[str, ...]) -> None:
    cards = host(gpus=(gpu(0),) if devices else ())
    answer = Queue().submit(demand("a", gpu=True, devices=devices), cards)
    assert isinstance(answer, Refused)
    assert answer.reason == "no-gpu"
    assert "none" in answer.message


# --- bounds ---------------------------------------------------------------------------------------------------------


def fill(queue: Queue, count: int, **more: Any) -> Busy | None:
    for n in range(count):
        name = f"{more}{n}"
        given = {"client": f"c{n}", "user": n, **more}
        answer = queue.submit(demand(name, **given), host())
        if isinstance(answer, Busy):
            return answer
    return None


@pytest.mark.parametrize(
    ("more", "reason", "limit"),
    [
        ({}, "queue-full", 8),
        ({"client": "A", "user": 1}, "client-full", 4),
        ({"user": 1}, "user-full", 6),
        ({"interactive": False}, "prewarm-full", 4),
    ],
)
def test_nobody_fills_the_queue_alone(more: dict[str, Any], reason: str, limit: int) -> None:
    queue = Queue(Settings(max_queued=8))
    busy = fill(queue, 20, **more)
    assert busy is not None
    assert (busy.reason, busy.queued, busy.limit) == (reason, limit, limit)
    assert str(limit) in busy.message
    queue.validate()


def test_what_runs_does_not_count_as_waiting() -> None:
    queue = Queue(Settings(max_queued=1))
    submit(queue, demand("a"))
    assert isinstance(queue.submit(demand("b"), host()), Busy)
    assert started(queue) == ["a"]
    submit(queue, demand("b"))
    assert queue.retry("a", 1.0) is not None, "a second try is never turned away"


def test_a_name_is_used_once() -> None:
    queue = Queue()
    submit(queue, demand("a"))
    with pytest.raises(ValueError, match="already"):
        queue.submit(demand("a"), host())
    started(queue)
    with pytest.raises(ValueError, match="already"):
        queue.submit(demand("a"), host())


def test_withdrawing() -> None:
    queue = Queue()
    submit(queue, demand("a"), demand("b"))
    assert started(queue) == ["a"]
    assert queue.withdraw("b")
    assert not queue.withdraw("b")
    assert not queue.withdraw("a"), "it runs; ending it is not the queue's"
    assert queue.finished("a", 1.0)
    assert not queue.finished("a", 1.0)
    assert started(queue) == []


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "cores", "slots"),
    [
        (Settings(jobs=4), 2, (4, 1)),
        (Settings(jobs=2), 8, (2, 4)),
        (Settings(cores_per_job=1), 8, (8, 1)),
        (Settings(cores_per_job=16), 8, (1, 16)),
        (Settings(jobs=3, cores_per_job=2), 64, (3, 2)),
        (Settings(jobs=0, cores_per_job=0), 64, (1, 64)),
        (Settings(), 0.5, (1, 1)),
        (Settings(), 11, (2, 5)),
    ],
)
def test_slots(settings: Settings, cores: float, slots: tuple[int, int]) -> None:
    queue = Queue(settings)
    queue.admit(host(cores), 0.0)
    got = queue.snapshot(0.0).slots
    assert (got.jobs, got.cores) == slots


# --- forecasts ------------------------------------------------------------------------------------------------------


def test_estimates_from_what_runs_and_what_is_ahead() -> None:
    queue, two = Queue(), host(8)
    submit(
        queue,
        *(demand(n, estimate=e) for n, e in zip("abcde", (60.0, 100.0, 30.0, 50.0, None), strict=True)),
        capacity=two,
    )
    assert queue.estimate("c", 0.0) == 60.0, "before anything started"
    assert started(queue, two) == ["a", "b"]
    assert [queue.estimate(n, 10.0) for n in "cde"] == [50.0, 80.0, 90.0]
    assert [w.estimate for w in queue.snapshot(10.0).waiting] == [50.0, 80.0, 90.0]
    assert [queue.estimate(n, 70.0) for n in "cde"] == [30.0, 60.0, 110.0], "a is late: not counted on"
    assert queue.estimate("c", 200.0) is None, "both are late"
    assert queue.estimate("a", 10.0) is None


def test_no_forecast_behind_the_unknown_or_for_what_lacks_memory() -> None:
    queue = Queue()
    submit(queue, demand("a"), demand("b", estimate=5.0))
    started(queue)
    assert queue.estimate("b", 1.0) is None
    queue, big = Queue(), host(8, 4 * GIB)
    submit(queue, *(demand(n, memory=3 * GIB, estimate=10.0) for n in "ab"), capacity=big)
    assert started(queue, big) == ["a"]
    assert queue.estimate("b", 1.0) is None


def test_more_running_than_slots_after_a_host_shrank() -> None:
    queue = Queue()
    submit(queue, *(demand(n, estimate=e) for n, e in zip("abc", (10.0, 20.0, 5.0), strict=True)), capacity=host(8))
    assert started(queue, host(8)) == ["a", "b"]
    assert started(queue, host(1)) == []
    assert queue.estimate("c", 0.0) == 20.0


# --- purity ---------------------------------------------------------------------------------------------------------


def test_the_queue_imports_no_clock_file_process_or_other_room() -> None:
    script = (
        "import sys; before = set(sys.modules); import mlc_jitd.schedule.queue\n"
        "new = set(sys.modules) - before\n"
        "print(*sorted(n for n in new if n.startswith(('mlc', 'socket', 'subprocess', 'psutil'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=40)
    rooms = ("fairness", "fit", "host", "jobs", "order", "queue")
    assert done.stdout.split() == ["mlc_jitd", "mlc_jitd.schedule", *(f"mlc_jitd.schedule.{room}" for room in rooms)]


def test_the_same_calls_give_the_same_answers() -> None:
    def story() -> list[str]:
        queue = Queue()
        for n in range(60):
            queue.submit(Demand(job=str(n), client=str(n % 7), user=n % 3, submitted=0.0, memory=GIB), host())
        return run_dry(queue).split()

    assert story() == story()
