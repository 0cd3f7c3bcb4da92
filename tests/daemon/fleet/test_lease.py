"""A claim, answer by answer: what the store may say, and what is asked next."""

from __future__ import annotations

import json

import pytest

from mlc_jitd.fleet.lease import (
    DEATHS,
    TRIES,
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
from mlc_jitd.fleet.record import Record

ME, OTHER = "aa" * 8, "bb" * 8
TERMS = Terms(lease=30.0, longest=1000.0)


def claim(**more: object) -> Claim:
    return Claim(ME, TERMS, **more)  # type: ignore[arg-type]


def other(beat: int = 1, **more: object) -> Record:
    return Record(owner=OTHER, host="gpu-7", beat=beat, **more)  # type: ignore[arg-type]


def waiting(record: Record, *, now: float = 0.0) -> Claim:
    """A claim that waits for another host, whose record it saw first at ``now``."""
    mine = claim()
    mine.begin(now)
    mine.listed(0, now)
    assert isinstance(mine.looked(record, sent=now, now=now), Elsewhere)
    assert isinstance(mine.wait(now), Look)
    return mine


def test_the_first_creates_looks_again_and_compiles() -> None:
    mine = claim()

    assert mine.begin(0.0) == Latest(0.0)
    assert mine.listed(None, 0.1) == Create(0, 0.1)
    assert mine.created(0.2) == Fetch(0.2)
    assert mine.fetched("absent", 0.3) == Hold(0)


def test_a_library_that_came_between_is_taken_and_the_lease_ended() -> None:
    mine = claim()
    mine.begin(0.0)
    mine.listed(None, 0.1)
    mine.created(0.2)

    assert mine.fetched("there", 0.3) == Have(held=0)


def test_a_creation_that_met_our_own_earlier_try_is_ours() -> None:
    mine = claim()
    mine.begin(0.0)
    mine.listed(None, 0.1)

    assert mine.exists(0.2) == Look(0, 0.2)
    assert mine.looked(Record(owner=ME, host="here", beat=1), sent=0.2, now=0.3) == Fetch(0.3)


@pytest.mark.parametrize("answer", ["exists", "failed"])
def test_a_creation_that_may_have_come_to_nothing_is_read_back_and_tried_again(answer: str) -> None:
    mine = claim()
    mine.begin(0.0)
    mine.listed(None, 0.1)

    look = getattr(mine, answer)(0.2)
    assert isinstance(look, Look)
    assert isinstance(mine.looked(None, sent=0.5, now=0.6), Create)


def test_a_store_that_never_takes_the_creation_is_given_up() -> None:
    mine = claim()
    mine.begin(0.0)
    step = mine.listed(None, 0.1)
    for turn in range(100):
        if not isinstance(step, Create):
            break
        mine.exists(float(turn))
        step = mine.looked(None, sent=float(turn), now=float(turn))

    assert isinstance(step, Local)
    assert step.reason == "store-fault"


def test_a_store_that_does_not_answer_holds_cores_for_three_requests() -> None:
    mine = claim()
    step = mine.begin(0.0)
    for turn in range(TRIES):
        assert step == Latest(step.at)
        step = mine.failed(float(turn))

    assert isinstance(step, Local)
    assert step.reason == "store-fault"


def test_a_holder_that_gives_signs_of_life_is_waited_for() -> None:
    mine = waiting(other(1))

    for beat in range(2, 40):
        step = mine.looked(other(beat), sent=10.0 * beat, now=10.0 * beat)
        assert isinstance(step, Look)
        assert step.at > 10.0 * beat


def test_a_silent_holder_is_dead_exactly_after_two_thirds_of_the_lease_time() -> None:
    mine = waiting(other())

    assert isinstance(mine.looked(other(), sent=19.9, now=19.95), Look)
    assert mine.looked(other(), sent=20.0, now=20.1) == Fetch(20.1), "it may have published as its last act"
    assert isinstance(mine.fetched("absent", 20.2), Turn)
    assert mine.begin(31.0) == Look(0, 31.0)
    mine.looked(other(), sent=31.0, now=31.1)
    assert mine.fetched("absent", 31.2) == Create(1, 31.2)


def test_an_answer_that_was_long_on_its_way_says_nothing_of_now() -> None:
    """What counts is from the arrival of the first answer to the leaving of the last question."""
    mine = claim()
    mine.begin(0.0)
    mine.listed(0, 0.0)
    mine.looked(other(), sent=0.0, now=15.0)
    mine.wait(15.0)

    assert isinstance(mine.looked(other(), sent=34.0, now=60.0), Look)


def test_the_last_look_is_not_after_the_end_of_the_silence() -> None:
    mine = waiting(other(left=900.0))

    step = mine.looked(other(left=900.0), sent=18.0, now=18.0)

    assert step == Look(0, 20.0)


@pytest.mark.parametrize("spread", ["0", "7", "f"])
def test_a_sign_of_life_and_the_silence_that_follows_fit_into_the_lease_time(spread: str) -> None:
    """Whatever the moment at which a holder dies, and however long the waiter's pauses have become."""
    mine = Claim(spread * 16, TERMS)
    mine.begin(0.0)
    mine.listed(0, 0.0)
    mine.looked(other(), sent=0.0, now=0.0)
    step, now, pauses = mine.wait(0.0), 0.0, []
    for beat in range(2, 20):
        assert isinstance(step, Look)
        pauses.append(step.at - now)
        now = step.at
        step = mine.looked(other(beat, left=900.0), sent=now, now=now)
    last_look = now - pauses[-1]  # the beat was written just after it, and the holder died at once
    while isinstance(step, Look):
        now = step.at
        step = mine.looked(other(19, left=900.0), sent=now, now=now)

    assert isinstance(step, Fetch)
    assert TERMS.silence <= now - last_look <= TERMS.lease
    assert max(pauses) + TERMS.silence <= TERMS.lease


def test_a_holder_that_wants_longer_is_given_longer_within_reason() -> None:
    mine = waiting(other(lease=60.0))
    assert isinstance(mine.looked(other(lease=60.0), sent=39.0, now=39.0), Look)
    assert isinstance(mine.looked(other(lease=60.0), sent=40.0, now=40.0), Fetch)

    greedy = waiting(other(lease=1e6))
    assert isinstance(greedy.looked(other(lease=1e6), sent=79.0, now=79.0), Look)
    assert isinstance(greedy.looked(other(lease=1e6), sent=80.0, now=80.0), Fetch)


def test_a_compile_that_failed_there_is_tried_here_by_each_who_waited() -> None:
    """One after the other, the last of a thousand hosts would wait for a thousand compiles."""
    mine = waiting(other())

    step = mine.looked(other(2, ended="failed"), sent=5.0, now=5.0)

    assert isinstance(step, Local)
    assert step.reason == "failed-elsewhere"
    assert "gpu-7" in step.why


def test_who_comes_after_a_failure_tries_under_a_lease() -> None:
    mine = claim()
    mine.begin(0.0)
    mine.listed(4, 0.0)

    assert mine.looked(other(ended="failed"), sent=0.0, now=0.0) == Create(5, 0.0)


def test_what_was_given_back_is_taken_by_one_of_those_who_wait() -> None:
    mine = waiting(other())

    assert isinstance(mine.looked(other(2, ended="released"), sent=5.0, now=5.0), Turn)
    assert mine.begin(6.0) == Look(0, 6.0)
    assert mine.looked(other(2, ended="released"), sent=6.0, now=6.0) == Create(1, 6.0)


def test_what_was_published_is_fetched() -> None:
    mine = waiting(other())

    assert isinstance(mine.looked(other(2, ended="published"), sent=5.0, now=5.0), Fetch)
    assert mine.fetched("there", 6.0) == Have()


def test_what_was_published_and_is_refused_here_is_compiled_here() -> None:
    mine = waiting(other())
    mine.looked(other(2, ended="published"), sent=5.0, now=5.0)

    step = mine.fetched("unusable", 6.0)

    assert isinstance(step, Local)
    assert step.reason == "unusable"


def test_holders_that_die_one_after_the_other_are_not_waited_for_for_ever() -> None:
    mine, now = waiting(other()), 0.0
    deaths = 0
    while deaths <= DEATHS:
        now += 31.0
        step = mine.looked(other(), sent=now, now=now)
        if isinstance(step, Local):
            break
        deaths += 1
        assert isinstance(mine.fetched("absent", now), Turn)
        mine.begin(now)
        mine.looked(other(), sent=now, now=now)
        assert isinstance(mine.fetched("absent", now), Create)
        mine.exists(now)
        assert isinstance(mine.looked(other(), sent=now, now=now), Elsewhere)
        mine.wait(now)
    assert deaths == DEATHS
    assert isinstance(step, Local)
    assert step.reason == "holders-died"


def test_a_compile_that_takes_longer_than_here_would_be_allowed_is_not_waited_for() -> None:
    mine = waiting(other())

    step = mine.looked(other(2, elapsed=1001.0), sent=9.0, now=9.0)

    assert isinstance(step, Local)
    assert step.reason == "too-long"


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_a_store_is_given_up_at_the_lease_time_after_its_last_answer(timeout: float) -> None:
    """It is asked for the last time just then, so what comes on top is that request's own time."""
    mine = waiting(other())
    mine.looked(other(2), sent=9.0, now=10.0)

    asked = 14.0
    step = mine.failed(asked + timeout)
    while isinstance(step, Look):
        assert step.at > asked
        asked = step.at
        step = mine.failed(asked + timeout)

    assert isinstance(step, Local)
    assert asked == 10.0 + TERMS.lease


def test_an_answer_among_failures_begins_the_patience_anew() -> None:
    mine = waiting(other())
    mine.failed(1.0)
    mine.looked(other(2), sent=20.0, now=20.0)

    assert isinstance(mine.failed(49.0), Look)


def test_a_reader_waits_for_others_and_never_creates() -> None:
    reader = claim(may_hold=False)
    reader.begin(0.0)
    step = reader.listed(None, 0.0)
    assert isinstance(step, Local)
    assert step.reason == "read-only"

    reader = claim(may_hold=False)
    reader.begin(0.0)
    reader.listed(0, 0.0)
    assert isinstance(reader.looked(other(), sent=0.0, now=0.0), Elsewhere)


def test_a_lease_that_was_tidied_away_is_learnt_anew() -> None:
    mine = waiting(other())

    assert isinstance(mine.looked(None, sent=5.0, now=5.0), Turn)
    assert mine.begin(6.0) == Latest(6.0)


def test_a_holder_cut_off_while_it_looks_once_more_goes_on() -> None:
    """It has the lease, and the cores."""
    mine = claim()
    mine.begin(0.0)
    mine.listed(None, 0.0)
    step = mine.created(0.0)
    for _ in range(TRIES):
        assert isinstance(step, Fetch)
        step = mine.failed(1.0)

    assert step == Hold(0)


def test_claims_do_not_look_in_step() -> None:
    looks = set()
    for number in range(20):
        mine = Claim(f"{number * 0x0CCCCCCC:08x}" + "0" * 8, TERMS)
        mine.begin(0.0)
        mine.listed(0, 0.0)
        mine.looked(other(), sent=0.0, now=0.0)
        looks.add(mine.wait(0.0).at)  # type: ignore[union-attr]

    assert len(looks) == 20
    assert max(looks) < 2 * min(looks)


def test_a_holder_beats_four_times_in_a_silence_and_knows_when_it_is_doubtful() -> None:
    mine = Holding(ME, "here", 3, TERMS, now=100.0)

    assert mine.due() == 105.0
    assert mine.beat(105.0, stage="codegen", left=20.0).stage == "codegen"
    assert not mine.doubtful(119.9)
    assert mine.doubtful(120.0)
    mine.kept(105.0)
    assert mine.due() == 110.0
    assert not mine.doubtful(124.9)
    assert not mine.lost
    mine.ahead(exists=True)
    mine.ahead(exists=False)
    assert mine.lost
    assert mine.doubtful(124.9)


def test_a_record_comes_back_as_it_went() -> None:
    record = Record(owner=ME, host="gpu-7", beat=4, lease=12.0, stage="llvm", elapsed=3.5, left=9.0)

    assert Record.decode(record.encode()) == record
    ended = record.next(stage="", elapsed=4.0, left=None, ended="published")
    assert Record.decode(ended.encode()) == ended
    assert not record.same_beat(ended)
    assert not record.same_beat(None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[1]",
        b"null",
        b'{"owner": 1}',
        b"[" * 4000,
        json.dumps({"owner": "a", "host": "b", "beat": True and "1"}).encode(),
        json.dumps({"owner": "a", "host": "b", "beat": 1, "lease": -1}).encode(),
        b'{"owner": "a", "host": "b", "beat": 1, "lease": NaN}',
        b'{"owner": "a", "host": "b", "beat": 1, "elapsed": 1e400}',
    ],
)
def test_what_is_no_record_is_a_holder_that_says_nothing(body: bytes) -> None:
    found = Record.decode(body)

    assert not found.ended
    assert found.lease == 0.0, "the reader's own time counts"
    assert found.same_beat(Record.decode(body))
    assert not found.same_beat(Record.decode(body + b" "))


def test_what_a_record_says_is_fit_for_a_terminal() -> None:
    found = Record.decode(json.dumps({"owner": "a", "host": "evil\x1b[2J" + "x" * 999, "beat": 1}).encode())

    assert found.host.isprintable()
    assert len(found.host) <= 200
