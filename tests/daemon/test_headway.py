"""How far a compile is: never back, never done before the end, and nothing where nothing is known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_jitd.headway import END, MOST, Headway, Place, Stopwatch

LIKE = {"start": 5.0, "passes": 10.0, "codegen": 25.0}


def test_seconds_per_stage_are_measured_in_the_order_of_the_stages() -> None:
    watch = Stopwatch()
    for stage, now in (("start", 10.0), ("passes", 12.5), ("codegen", 20.0), ("passes", 21.0)):
        watch.enter(stage, now)
    assert list(watch.stop(22.0).items()) == [("start", 2.5), ("passes", 8.5), ("codegen", 1.0)]


def test_nothing_is_known_of_a_compile_without_its_like() -> None:
    headway = Headway({}, None)
    headway.enter("start", 0.0)
    assert headway.at(100.0) == Place(None, None)


def test_nothing_is_known_of_a_compile_that_has_not_begun() -> None:
    assert Headway(LIKE, 40.0).at(100.0) == Place(None, None)


def test_it_goes_by_the_stages_of_its_like() -> None:
    headway = Headway(LIKE, 40.0)
    headway.enter("start", 100.0)
    assert headway.at(100.0) == Place(0.0, 40.0)
    headway.enter("passes", 105.0)
    assert headway.at(110.0) == Place(0.25, 30.0)
    headway.enter("codegen", 115.0)
    assert headway.at(135.0) == Place(0.87, 5.0)
    headway.enter(END, 140.0)
    assert headway.at(140.0) == Place(MOST, None)


def test_a_stage_that_takes_longer_waits_for_the_next_and_the_time_left_grows() -> None:
    headway = Headway(LIKE, 40.0)
    headway.enter("start", 0.0)
    headway.enter("passes", 5.0)
    assert headway.at(15.0) == Place(0.37, 25.0)
    assert headway.at(30.0) == Place(0.37, 50.0)
    headway.enter("codegen", 30.0)
    assert headway.at(30.0) == Place(0.37, 50.0)


def test_a_stage_that_takes_less_jumps_ahead() -> None:
    headway = Headway(LIKE, 40.0)
    headway.enter("start", 0.0)
    headway.enter("codegen", 1.0)
    assert headway.at(1.0) == Place(0.37, 13.0)


def test_when_all_that_is_known_is_outrun_nothing_is_said_of_the_time_left() -> None:
    headway = Headway(LIKE, 40.0)
    headway.enter("codegen", 0.0)
    assert headway.at(1000.0) == Place(MOST, None)


def test_where_only_the_whole_is_known_it_goes_by_the_whole() -> None:
    headway = Headway({}, 40.0)
    headway.enter("start", 0.0)
    headway.enter("anything", 5.0)
    assert headway.at(10.0) == Place(0.25, 30.0)


def test_a_second_try_begins_anew() -> None:
    headway = Headway(LIKE, 40.0)
    headway.enter("codegen", 0.0)
    headway.restart()
    assert headway.at(5.0) == Place(None, None)
    headway.enter("start", 10.0)
    assert headway.at(10.0) == Place(0.0, 40.0)


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0, 1e4), max_size=5),
    st.none() | st.floats(0, 1e5),
    st.lists(
        st.tuples(st.none() | st.sampled_from(["a", "b", "c", "d", "e", "odd", END]), st.floats(0, 1e5)), max_size=30
    ),
)
def test_it_never_goes_back_and_is_never_done(
    like: dict[str, float], seconds: float | None, events: list[tuple[str | None, float]]
) -> None:
    headway = Headway(like, seconds)
    now = last = 0.0
    for stage, passes in events:
        now += passes
        if stage is not None:
            headway.enter(stage, now)
        place = headway.at(now)
        if place.fraction is not None:
            assert last <= place.fraction <= MOST
            last = place.fraction
        assert place.left is None or (place.left >= 0 and place.fraction is not None)
