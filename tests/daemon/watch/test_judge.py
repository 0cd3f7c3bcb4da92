"""What looks and events mean: the pure part, and whatever sequence of them comes, the truth is found in the end."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_jitd.asks import GONE, UNSEEN
from mlc_jitd.watch.judge import BURST_SECONDS, GONE_SECONDS, QUIET_SECONDS, TORN_TRIES, State, looked, poked
from mlc_jitd.watch.look import TORN, UNREADABLE, Look

PACE = 5.0
KNOWN = frozenset({"a"})


def look(state: State, config: str, now: float, *, fresh: bool = False) -> tuple[State, str]:
    return looked(state, Look(config=config, fresh=fresh), now, pace=PACE, known=KNOWN)


def test_a_burst_is_looked_into_when_it_is_quiet_and_never_much_later() -> None:
    state = poked(State(config="a", due=100.0), 10.0)
    assert state.due == 10.0 + QUIET_SECONDS
    now = 10.0
    while now < 12.5:
        now += 0.1
        state = poked(state, now)
    assert state.due == 10.0 + BURST_SECONDS
    assert look(state, "a", 12.6)[0].burst == math.inf


def test_an_equal_config_changes_nothing() -> None:
    assert look(State(config="a"), "a", 1.0) == (State(config="a", due=1.0 + PACE), "same")


def test_what_was_changed_just_now_is_looked_at_again_soon() -> None:
    assert look(State(config="a"), "b", 1.0, fresh=True)[0].due < 1.0 + PACE


def test_a_config_is_gone_only_when_it_stays_away() -> None:
    state, verdict = look(State(config="a"), GONE, 1.0)
    assert (verdict, state.config, state.due) == ("same", "a", 1.0 + GONE_SECONDS)
    assert look(state, "a", 1.5) == (State(config="a", due=1.5 + PACE), "same")
    assert look(state, GONE, 1.5)[1] == "same"
    state, verdict = look(state, GONE, 1.0 + GONE_SECONDS)
    assert (verdict, state.config) == ("gone", GONE)
    assert look(state, GONE, 9.0)[1] == "same"
    assert look(state, "a", 9.0)[1] == "changed"


def test_half_a_config_is_looked_at_again_and_again_but_not_for_ever() -> None:
    state, now = State(config="a"), 0.0
    for _ in range(TORN_TRIES):
        state, verdict = look(state, TORN, now)
        assert (verdict, state.config, state.due - now) == ("same", "a", 1.0)
        now = state.due
    state, _ = look(state, TORN, now)
    assert state.due - now == PACE
    assert look(state, "b", now)[1] == "changed"


def test_what_cannot_be_read_is_neither_changed_nor_gone() -> None:
    state, verdict = look(State(config="a", missing=0.5), UNREADABLE, 3.0)
    assert (verdict, state.config, state.missing) == ("same", "a", math.inf)


def test_a_folder_is_seen_when_it_holds_what_somebody_asked_with() -> None:
    assert look(State(), "b", 1.0)[1] == "same"
    assert look(State(), GONE, 1.0)[1] == "same"
    state, verdict = look(State(), "a", 1.0)
    assert (state.config, verdict) == ("a", "seen")
    assert look(state, "b", 2.0)[1] == "changed"


STEPS = st.lists(
    st.tuples(st.floats(0.01, 10.0), st.sampled_from(["a", "b", "c", GONE, TORN, UNREADABLE, "event"]), st.booleans()),
    max_size=30,
)


@given(STEPS, st.sampled_from(["a", GONE]), st.sampled_from(["a", "b", GONE]))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_each_change_is_told_once_and_the_truth_is_found(
    steps: list[tuple[float, str, bool]], first: str, last: str
) -> None:
    state, now, told = State(config=first), 0.0, first
    for after, what, fresh in steps:
        now += after
        if what == "event":
            state = poked(state, now)
            assert state.due <= now + QUIET_SECONDS
            continue
        state, verdict = look(state, what, now, fresh=fresh)
        if verdict in ("changed", "gone"):
            assert state.config != told
            told = state.config
        assert told == state.config not in (TORN, UNREADABLE, UNSEEN)
        assert now < state.due <= now + PACE
    for _ in range(2):  # a look when one is due, and one to make sure of what vanished
        now = max(now, state.due)
        state, _ = look(state, last, now)
    assert state.config == last
