"""Single flight and policy by example, after BuildKit's list of what goes wrong with shared builds."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_jitd.broker import (
    STAGES_KEPT,
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
    draining,
)

KEY = "ab" * 32
A: Asker = (b"a", 1)
B: Asker = (b"b", 1)
C: Asker = (b"c", 1)
NO = Trouble("compile-failed", "The compiler said no.", "Correct the model.", log_path="/l")
STEP = Step("lower", "3 of 9", 0.3)


class Checked(Broker):
    """A broker that looks at itself after every event."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in ("asked", "left", "cancelled", "started", "requeued", "advanced", "finished", "failed", "drain"):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            out = value(*arguments, **named)
            self.validate()
            return out

        return call


@pytest.fixture
def broker() -> Broker:
    return Checked(backoff=5.0)


def ask(
    broker: Broker,
    asker: Asker,
    policy: Policy = "ON",
    *,
    hit: bool = False,
    reason: str = "absent",
    now: float = 0.0,
    interactive: bool = True,
) -> list[Instruction]:
    return broker.asked(
        asker, key=KEY, policy=policy, hit=hit, reason="" if hit else reason, now=now, interactive=interactive
    )


def kinds(out: list[Instruction]) -> list[tuple[Asker, str]]:
    return [(each.asker, each.trouble.kind) for each in out if isinstance(each, Refuse)]


def happened(broker: Broker) -> list[str]:
    return [what for _, what in broker.story]


# --- policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["ON", "READONLY"])
def test_a_hit_is_delivered(broker: Broker, policy: Policy) -> None:
    assert ask(broker, A, policy, hit=True) == [Deliver(A, KEY, "hit")]
    assert not broker.jobs


def test_a_miss_is_compiled_and_delivered_once(broker: Broker) -> None:
    assert ask(broker, A) == [Enqueue(KEY, interactive=True, redo=False, asker=A)]
    assert broker.started(KEY) is None
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "absent")]
    assert not broker.jobs
    assert happened(broker) == ["queued", "running", "finished"]


@pytest.mark.parametrize("hit", [True, False])
def test_off_is_an_error_whatever_is_there(broker: Broker, hit: bool) -> None:
    assert kinds(ask(broker, A, "OFF", hit=hit)) == [(A, "disabled")]
    assert not broker.jobs


@pytest.mark.parametrize("reason", ["absent", "damaged", "foreign", "something new"])
def test_readonly_never_compiles_and_says_why(broker: Broker, reason: str) -> None:
    (refusal,) = ask(broker, A, "READONLY", reason=reason)
    assert isinstance(refusal, Refuse)
    assert (refusal.trouble.kind, refusal.trouble.reason) == ("not-cached", reason)
    assert not broker.jobs


def test_readonly_tells_the_reason_in_words(broker: Broker) -> None:
    why = "the nearest entry, abc, differs: opt O2 there, O3 here"
    (refusal,) = broker.asked(A, key=KEY, policy="READONLY", hit=False, reason="absent", now=0.0, why=why)
    assert isinstance(refusal, Refuse)
    assert f"is in the cache: {why}), and compiling" in refusal.trouble.message


def test_readonly_does_not_wait_for_a_job_that_runs(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert kinds(ask(broker, B, "READONLY")) == [(B, "not-cached")]
    assert broker.waiters(KEY) == [A]


def test_redo_compiles_although_there_is_an_entry(broker: Broker) -> None:
    assert ask(broker, A, "REDO", hit=True) == [Enqueue(KEY, interactive=True, redo=True, asker=A)]
    broker.started(KEY)
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "redo")]


def test_redo_joins_a_running_job_while_on_gets_the_old_entry(broker: Broker) -> None:
    ask(broker, A, "REDO", hit=True)
    broker.started(KEY)
    assert ask(broker, B, "REDO", hit=True) == []
    assert ask(broker, C, "ON", hit=True) == [Deliver(C, KEY, "hit")]
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "redo"), Deliver(B, KEY, "joined", "redo")]


def test_redo_that_joins_a_queued_job_makes_it_a_redo(broker: Broker) -> None:
    ask(broker, A)
    assert not broker.jobs[KEY].redo
    ask(broker, B, "REDO")
    assert broker.jobs[KEY].redo


def test_redo_that_joins_a_running_job_does_not_change_it(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    ask(broker, B, "REDO")
    assert not broker.jobs[KEY].redo


# --- joining --------------------------------------------------------------------------------------------------------


def test_many_askers_one_job(broker: Broker) -> None:
    askers = [(b"%d" % n, n) for n in range(100)]
    out = [each for asker in askers for each in ask(broker, asker)]
    assert out == [Enqueue(KEY, interactive=True, redo=False, asker=askers[0])]
    broker.started(KEY)
    delivered = broker.finished(KEY)
    assert [each.asker for each in delivered if isinstance(each, Deliver)] == askers
    assert [each.source for each in delivered if isinstance(each, Deliver)] == ["compiled"] + ["joined"] * 99


def told(out: list[Instruction]) -> list[Step]:
    return [each.step for each in out if isinstance(each, Tell)]


def test_who_joins_late_is_told_the_stages_so_far_and_then_the_stream(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.advanced(KEY, Step("start"))
    assert broker.advanced(KEY, STEP) == [Tell((A,), KEY, STEP)]
    assert ask(broker, B) == [Tell((B,), KEY, Step("start")), Tell((B,), KEY, STEP)]
    assert broker.advanced(KEY, Step("publish")) == [Tell((A, B), KEY, Step("publish"))]


def test_of_each_stage_so_far_the_last_step_is_told_at_the_time_when_the_stage_began(broker: Broker) -> None:
    ask(broker, A)
    broker.advanced(KEY, Step("queued", "position 1", at=0.0))
    broker.started(KEY)
    for number in range(1, 4):
        broker.advanced(KEY, Step("lower", f"{number} of 3", number / 10, 4.0 - number, at=float(number)))
    broker.advanced(KEY, Step("publish", at=5.0))
    broker.advanced(KEY, Step("publish", "nearly", at=6.0))
    steps = told(ask(broker, B))
    assert [(step.stage, step.detail, step.at) for step in steps] == [
        ("queued", "position 1", 0.0), ("lower", "3 of 3", 1.0), ("publish", "nearly", 6.0),
    ]  # fmt: skip


def test_a_stage_that_comes_again_is_told_where_it_came_last(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    for stage in ("start", "lower", "link", "lower"):
        broker.advanced(KEY, Step(stage))
    assert [step.stage for step in told(ask(broker, B))] == ["start", "link", "lower"]


def test_the_stages_that_are_kept_are_bounded(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    for number in range(100):
        broker.advanced(KEY, Step(f"stage {number}"))
    assert [step.stage for step in told(ask(broker, B))] == [f"stage {n}" for n in range(100 - STAGES_KEPT, 100)]


def test_a_second_try_begins_its_history_anew(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.advanced(KEY, Step("start"))
    broker.advanced(KEY, STEP)
    again = Step("queued", "once more, alone")
    broker.requeued(KEY, again)
    assert told(ask(broker, B)) == [again]


def test_another_time_alone_is_no_progress(broker: Broker) -> None:
    ask(broker, A)
    assert broker.advanced(KEY, Step("lower", at=1.0))
    assert broker.advanced(KEY, Step("lower", at=2.0)) == []
    assert broker.advanced(KEY, Step("lower", left=3.0, at=2.0))


def test_the_same_progress_is_told_once(broker: Broker) -> None:
    ask(broker, A)
    assert broker.advanced(KEY, STEP)
    assert broker.advanced(KEY, Step(STEP.stage, STEP.detail, STEP.fraction)) == []


def test_progress_of_a_job_that_is_no_more_is_nothing(broker: Broker) -> None:
    assert broker.advanced(KEY, STEP) == []


def test_two_keys_are_two_jobs(broker: Broker) -> None:
    ask(broker, A)
    out = broker.asked(B, key="cd" * 32, policy="ON", hit=False, reason="absent", now=0)
    assert out == [Enqueue("cd" * 32, interactive=True, redo=False, asker=B)]
    assert broker.match("") == [KEY, "cd" * 32]
    assert broker.match("cd") == ["cd" * 32]
    assert broker.match("ef") == []


def test_one_connection_may_wait_for_several_things(broker: Broker) -> None:
    ask(broker, (b"a", 1))
    ask(broker, (b"a", 2))
    broker.left((b"a", 1))
    assert broker.waiters(KEY) == [(b"a", 2)]


def test_an_interactive_asker_lifts_a_queued_pre_warm_job_once(broker: Broker) -> None:
    assert ask(broker, A, interactive=False) == [Enqueue(KEY, interactive=False, redo=False, asker=A)]
    assert ask(broker, B, interactive=False) == []
    assert ask(broker, C) == [Promote(KEY)]
    assert ask(broker, (b"d", 1)) == []


def test_a_running_pre_warm_job_is_lifted_for_its_second_try(broker: Broker) -> None:
    ask(broker, A, interactive=False)
    broker.started(KEY)
    assert ask(broker, B) == [Promote(KEY)]
    assert ask(broker, C) == []


def test_another_process_published_meanwhile(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert broker.finished(KEY, compiled=False) == [Deliver(A, KEY, "joined", "absent")]


# --- leaving --------------------------------------------------------------------------------------------------------


def test_cancel_one_of_two(broker: Broker) -> None:
    ask(broker, A)
    ask(broker, B)
    assert broker.left(A, cancel=True) == []
    broker.started(KEY)
    assert broker.finished(KEY) == [Deliver(B, KEY, "joined", "absent")]


def test_cancel_one_of_two_while_it_runs(broker: Broker) -> None:
    ask(broker, A)
    ask(broker, B)
    broker.started(KEY)
    assert broker.left(A, cancel=True) == []
    assert broker.jobs[KEY].state == "running"


def test_cancel_both_while_queued(broker: Broker) -> None:
    ask(broker, A)
    ask(broker, B)
    assert broker.left(A) == []
    assert broker.left(B) == [Withdraw(KEY)]
    assert not broker.jobs
    assert ask(broker, A) == [Enqueue(KEY, interactive=True, redo=False, asker=A)]


def test_cancel_both_while_it_runs(broker: Broker) -> None:
    ask(broker, A)
    ask(broker, B)
    broker.started(KEY)
    assert broker.left(A, cancel=True) == []
    assert broker.left(B, cancel=True) == [Kill(KEY)]
    assert broker.failed(KEY, NO, now=1.0) == []
    assert not broker.jobs


def test_a_started_job_that_everybody_left_goes_on_and_can_be_joined(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert broker.left(A) == []
    assert broker.advanced(KEY, STEP) == []
    assert ask(broker, B) == [Tell((B,), KEY, STEP)]
    assert broker.finished(KEY) == [Deliver(B, KEY, "joined", "absent")]


def test_a_started_job_that_everybody_left_may_end_unheard(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.left(A)
    assert broker.finished(KEY) == []
    assert not broker.jobs


def test_the_cancel_race_is_lost_by_the_cancellation(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert broker.left(A, cancel=True) == [Kill(KEY)]
    assert broker.finished(KEY) == []
    assert not broker.jobs


def test_leaving_twice_or_unknown_is_nothing(broker: Broker) -> None:
    assert broker.left(A) == []
    ask(broker, A)
    ask(broker, B)
    broker.left(A)
    assert broker.left(A, cancel=True) == []
    assert broker.waiters(KEY) == [B]


def test_who_was_answered_can_not_leave(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.finished(KEY)
    assert broker.left(A, cancel=True) == []


def test_an_asker_waits_for_one_thing_at_a_time(broker: Broker) -> None:
    ask(broker, A)
    with pytest.raises(AssertionError, match="one thing at a time"):
        ask(broker, A)
    broker.validate()


# --- failing --------------------------------------------------------------------------------------------------------


def test_a_failure_goes_to_everyone_who_waited(broker: Broker) -> None:
    for asker in (A, B, C):
        ask(broker, asker)
    broker.started(KEY)
    broker.left(B)
    assert broker.failed(KEY, NO, now=1.0) == [Refuse(A, NO, KEY), Refuse(C, NO, KEY)]
    assert not broker.jobs


def test_a_failed_key_backs_off_for_a_moment(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.failed(KEY, NO, now=10.0)
    (refusal,) = ask(broker, A, now=12.0)
    assert isinstance(refusal, Refuse)
    assert refusal.trouble.message == NO.message
    assert refusal.trouble.log_path == "/l"
    assert "in 3.0 s" in refusal.trouble.remedy
    assert NO.remedy in refusal.trouble.remedy
    assert ask(broker, A, now=15.0) == [Enqueue(KEY, interactive=True, redo=False, asker=A)]


def test_redo_does_not_wait_for_the_back_off_and_ends_it(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.failed(KEY, NO, now=10.0)
    assert ask(broker, A, "REDO", now=11.0) == [Enqueue(KEY, interactive=True, redo=True, asker=A)]
    broker.started(KEY)
    broker.finished(KEY)
    assert ask(broker, A, now=12.0) == [Enqueue(KEY, interactive=True, redo=False, asker=A)]


def test_a_hit_beats_the_back_off(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.failed(KEY, NO, now=10.0)
    assert ask(broker, A, hit=True, now=11.0) == [Deliver(A, KEY, "hit")]


def test_what_need_not_be_remembered_is_tried_at_once(broker: Broker) -> None:
    ask(broker, A)
    broker.failed(KEY, Trouble("busy", "full"), now=0.0, remember=False)
    assert ask(broker, A, now=0.0) == [Enqueue(KEY, interactive=True, redo=False, asker=A)]


def test_old_failures_are_forgotten(broker: Broker) -> None:
    for n in range(50):
        key = f"{n:064x}"
        broker.asked(A, key=key, policy="ON", hit=False, reason="absent", now=n * 10.0)
        broker.failed(key, NO, now=n * 10.0)
    assert len(broker._failures) == 1


# --- cancelled by name ----------------------------------------------------------------------------------------------


def test_cancelled_by_name_while_queued(broker: Broker) -> None:
    ask(broker, A)
    ask(broker, B)
    out = broker.cancelled(KEY)
    assert out[0] == Withdraw(KEY)
    assert kinds(out) == [(A, "compile-cancelled"), (B, "compile-cancelled")]
    assert not broker.jobs


def test_cancelled_by_name_while_running(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert broker.cancelled(KEY) == [Kill(KEY)]
    assert broker.cancelled(KEY) == []
    stopped = Trouble("compile-cancelled", "The compile was cancelled.")
    assert broker.failed(KEY, stopped, now=1.0) == [Refuse(A, stopped, KEY)]
    assert ask(broker, A, now=1.0) == [Enqueue(KEY, interactive=True, redo=False, asker=A)], "no back-off"


def test_cancelled_by_name_but_faster(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.cancelled(KEY)
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "absent")]


def test_a_name_without_a_job_is_nothing(broker: Broker) -> None:
    assert broker.cancelled(KEY) == []


# --- asked while cancelling -----------------------------------------------------------------------------------------


def cancelling(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    assert broker.cancelled(KEY) == [Kill(KEY)]


def test_who_asks_while_a_job_is_cancelled_waits_for_the_next(broker: Broker) -> None:
    cancelling(broker)
    (told,) = ask(broker, B)
    assert isinstance(told, Tell)
    assert (told.askers, told.step.stage) == ((B,), "queued")
    (joined,) = ask(broker, C, interactive=False)
    assert isinstance(joined, Tell)
    assert broker.waiters(KEY) == [A]
    assert broker.failed(KEY, NO, now=1.0) == [
        Refuse(A, NO, KEY),
        Enqueue(KEY, interactive=True, redo=False, asker=B),
    ]
    assert broker.waiters(KEY) == [B, C]
    broker.started(KEY)
    assert broker.finished(KEY) == [Deliver(B, KEY, "compiled", "absent"), Deliver(C, KEY, "joined", "absent")]
    assert happened(broker) == ["queued", "running", "cancelling", "failed", "queued", "running", "finished"]


def test_the_cancelled_job_was_faster_so_its_entry_serves_those_behind_it(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B, "REDO")
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "absent"), Deliver(B, KEY, "joined", "absent")]
    assert not broker.jobs


def test_who_waits_for_the_next_job_may_leave(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    ask(broker, C)
    assert broker.left(B, cancel=True) == []
    assert broker.failed(KEY, NO, now=1.0)[-1] == Enqueue(KEY, interactive=True, redo=False, asker=C)
    broker.started(KEY)
    assert broker.finished(KEY) == [Deliver(C, KEY, "compiled", "absent")]


def test_when_all_left_there_is_no_next_job(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    assert broker.left(B) == []
    assert broker.failed(KEY, NO, now=1.0) == [Refuse(A, NO, KEY)]
    assert not broker.jobs


def test_redo_and_interactive_askers_shape_the_next_job(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B, interactive=False)
    out = ask(broker, C, "REDO")
    assert not [each for each in out if isinstance(each, Promote)], "it is not in the queue yet"
    assert broker.failed(KEY, NO, now=1.0)[-1] == Enqueue(KEY, interactive=True, redo=True, asker=B)


def test_a_second_cancellation_by_name_ends_the_wait_for_the_next_job(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    assert kinds(broker.cancelled(KEY)) == [(B, "compile-cancelled")]
    assert broker.failed(KEY, NO, now=1.0) == [Refuse(A, NO, KEY)]


def test_readonly_and_hits_do_not_wait_for_the_next_job(broker: Broker) -> None:
    cancelling(broker)
    assert kinds(ask(broker, B, "READONLY")) == [(B, "not-cached")]
    assert ask(broker, B, hit=True) == [Deliver(B, KEY, "hit")]


def test_a_drain_ends_the_wait_for_the_next_job(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    assert kinds(broker.drain()) == [(B, "draining")]
    assert kinds(ask(broker, C)) == [(C, "draining")]
    assert broker.failed(KEY, NO, now=1.0) == [Refuse(A, NO, KEY)]


def test_a_queue_that_is_full_refuses_the_next_job_like_any_other(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    broker.failed(KEY, NO, now=1.0)
    busy = Trouble("busy", "full")
    assert broker.failed(KEY, busy, now=1.0, remember=False) == [Refuse(B, busy, KEY)]


# --- a second try ---------------------------------------------------------------------------------------------------


def test_a_job_that_waits_again_keeps_its_waiters(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    again = Step("queued", "once more, alone")
    assert broker.requeued(KEY, again) == [Tell((A,), KEY, again)]
    assert broker.jobs[KEY].state == "queued"
    ask(broker, B)
    broker.started(KEY)
    assert broker.finished(KEY) == [Deliver(A, KEY, "compiled", "absent"), Deliver(B, KEY, "joined", "absent")]


def test_a_job_that_nobody_waits_for_is_not_tried_again(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.left(A)
    assert broker.requeued(KEY, STEP) == [Withdraw(KEY)]
    assert not broker.jobs


def test_a_job_that_is_being_cancelled_is_not_tried_again_and_its_waiters_are_told(broker: Broker) -> None:
    cancelling(broker)
    ask(broker, B)
    out = broker.requeued(KEY, STEP)
    assert out[0] == Withdraw(KEY)
    assert kinds(out) == [(A, "compile-cancelled")]
    assert out[-1] == Enqueue(KEY, interactive=True, redo=False, asker=B)


def test_a_daemon_that_drains_tries_nothing_again(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.drain()
    out = broker.requeued(KEY, STEP)
    assert out == [Withdraw(KEY), Refuse(A, draining(), KEY)]
    assert not broker.jobs


# --- draining -------------------------------------------------------------------------------------------------------


def test_a_drain_hands_queued_jobs_back_and_lets_running_ones_finish(broker: Broker) -> None:
    ask(broker, A)
    broker.started(KEY)
    broker.asked(B, key="cd" * 32, policy="ON", hit=False, reason="absent", now=0)
    assert broker.drain() == [Withdraw("cd" * 32), Refuse(B, draining(), "cd" * 32)]
    assert broker.drain() == []
    assert ask(broker, C) == [], "joins what runs"
    assert [each.asker for each in broker.finished(KEY) if isinstance(each, Deliver)] == [A, C]


def test_a_draining_daemon_serves_hits_and_starts_nothing(broker: Broker) -> None:
    broker.drain()
    assert ask(broker, A, hit=True) == [Deliver(A, KEY, "hit")]
    assert kinds(ask(broker, A)) == [(A, "draining")]
    assert kinds(ask(broker, A, "REDO", hit=True)) == [(A, "draining")]
    assert kinds(ask(broker, A, "READONLY")) == [(A, "not-cached")]
    assert kinds(ask(broker, A, "OFF")) == [(A, "disabled")]


def test_the_story_is_bounded(broker: Broker) -> None:
    for _ in range(600):
        ask(broker, A)
        broker.left(A)
    assert len(broker.story) == 1000
