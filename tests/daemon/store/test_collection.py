"""What goes, what stays, in which order, and what people are told about it: values only."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_jitd.store.collection import Candidate, Facts, Plan, Rules, explain, plan

NOW = 1_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


def entry(
    name: str, size: int = 10, *, used: float = DAY, kind: Any = "entry", published: float = 90 * DAY
) -> Candidate:
    """A candidate by its ages in seconds."""
    return Candidate(f"{name}.so", name, kind, size, NOW - published, NOW - min(used, published))


def gone(planned: Plan) -> list[str]:
    return [each.candidate.key for each in planned.removals]


def facts(**given: Any) -> Facts:
    return Facts(now=NOW, **given)


def test_what_fits_stays():
    planned = plan([entry("a"), entry("b")], Rules(max_size=20, min_free=5), facts(free=5))
    assert gone(planned) == []
    assert (planned.before, planned.after, planned.over, planned.short) == (20, 20, 0, 0)


def test_the_least_recently_used_go_first_and_no_more_than_must():
    there = [entry("new", used=2 * HOUR), entry("old", used=9 * DAY), entry("mid", used=5 * DAY)]
    assert gone(plan(there, Rules(max_size=20), facts())) == ["old"]
    assert gone(plan(there, Rules(max_size=19), facts())) == ["old", "mid"]


def test_the_stale_go_before_the_unused():
    there = [entry("old", used=9 * DAY), entry("stale", used=2 * HOUR)]
    assert gone(plan(there, Rules(max_size=10), facts(stale={"stale": NOW - DAY}))) == ["stale"]


def test_the_floor_counts_what_goes_as_free():
    there = [entry("a", 30, used=3 * DAY), entry("b", 30, used=2 * DAY), entry("c", 30)]
    assert gone(plan(there, Rules(min_free=100), facts(free=50))) == ["a", "b"]
    short = plan(there, Rules(min_free=200), facts(free=50))
    assert (gone(short), short.short) == (["a", "b", "c"], 60)


def test_free_space_that_is_not_known_takes_nothing():
    assert gone(plan([entry("a")], Rules(min_free=1 << 40), facts(free=None))) == []


@pytest.mark.parametrize(
    "protection",
    [{"leased": {"a.so": "process 1"}}, {"pinned": {"a": "by hand"}}, {"spared": {"a.so": "locked"}}],
)
@pytest.mark.parametrize(
    "rules", [Rules(max_size=0), Rules(min_free=1 << 40), Rules(max_age=1.0), Rules(stale_age=1.0)]
)
def test_what_is_protected_stays_whatever_the_rules(protection: Any, rules: Rules):
    planned = plan([entry("a")], rules, facts(free=0, stale={"a": NOW - DAY}, **protection))
    assert gone(planned) == []
    assert planned.over == (10 if rules.max_size == 0 else 0)


def test_the_grace_counts_from_publish_and_from_use():
    used = entry("used", used=59 * 60)
    fresh = entry("fresh", published=59 * 60)
    neither = entry("neither", used=61 * 60)
    assert gone(plan([used, fresh, neither], Rules(max_size=0), facts())) == ["neither"]


def test_a_time_in_the_far_future_protects_nothing_and_one_just_ahead_does():
    ahead, far = entry("ahead", used=-60), entry("far", used=-40 * DAY)
    planned = plan([ahead, far], Rules(max_size=0), facts())
    assert gone(planned) == ["far"]
    # After a clock was put back it counts as used now, so older ones go first.
    assert gone(plan([far, entry("old", used=2 * HOUR)], Rules(max_size=10), facts())) == ["old"]


def test_a_replaced_artifact_goes_when_the_grace_is_over_though_there_is_room():
    there = [entry("a"), entry("a", kind="superseded", published=2 * HOUR)]
    assert gone(plan(there, Rules(), facts())) == ["a"]
    young = [entry("a"), entry("a", kind="superseded", published=HOUR / 2)]
    assert gone(plan(young, Rules(), facts())) == []


def test_a_use_of_the_key_is_none_of_its_replaced_artifact():
    old = Candidate("a-1.so", "a", "superseded", 10, NOW - DAY, NOW)
    assert gone(plan([old], Rules(), facts())) == ["a"]


def test_a_pin_holds_the_entry_and_not_what_it_replaced():
    there = [entry("a"), Candidate("a-1.so", "a", "superseded", 10, NOW - DAY, NOW - DAY)]
    planned = plan(there, Rules(max_size=0), facts(pinned={"a": "by hand"}))
    assert [each.candidate.artifact for each in planned.removals] == ["a-1.so"]


@pytest.mark.parametrize(("age", "goes"), [(29, False), (31, True)])
def test_ages(age: int, goes: bool):
    assert bool(gone(plan([entry("a", used=age * DAY)], Rules(max_age=30 * DAY), facts()))) is goes
    stale = facts(stale={"a": NOW - age * DAY})
    assert bool(gone(plan([entry("a")], Rules(stale_age=30 * DAY), stale))) is goes


def told(candidates: list[Candidate], rules: Rules, at: Facts) -> list[str]:
    return [explain(each, rules, at) for each in plan(candidates, rules, at).decisions]


def test_every_decision_is_explained_in_words():
    at = facts(
        free=None, leased={"a.so": "process 7 (serve)"}, pinned={"b": "pinned by hand"}, spared={"c.so": "being made"},
        stale={"g": NOW - DAY, "h": NOW - 40 * DAY},
    )  # fmt: skip
    rules = Rules(max_size=40, max_age=50 * DAY, stale_age=30 * DAY)
    there = [
        entry("a"), entry("b"), entry("c"), entry("d", used=60), entry("e", used=2 * DAY), entry("f", used=60 * DAY),
        entry("g"), entry("h"), entry("i", kind="superseded"), entry("j", kind="orphan"),
    ]  # fmt: skip
    assert told(there, rules, at) == [
        "not used for 60 d, longer than 50 d",
        "no model folder has asked for it for 40 d, longer than 30 d",
        "replaced by a newer one of its key, and not in use",
        "has no manifest: a publish that never ended",
        "no model folder has asked for it for 1 d, and the cache was over 40 B",
        "not used for 2 d, longer than what stays, and the cache was over 40 B",
        "in use by process 7 (serve)",
        "pinned by hand",
        "being made",
        "used 1 min ago, within the grace of 1 h",
    ]
    assert told([entry("a")], Rules(), facts()) == ["not used for 1 d; there is room"]
    assert told([entry("a")], Rules(min_free=100), facts(free=5)) == [
        "not used for 1 d, longer than what stays, and the disk had 5 B free of 100 B asked for"
    ]


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        artifact=st.uuids().map(str),
        key=st.sampled_from("abcdefgh"),
        kind=st.sampled_from(["entry", "entry", "superseded", "orphan"]),
        size=st.integers(0, 100),
        published=st.floats(NOW - 100 * DAY, NOW + DAY),
        used=st.floats(NOW - 100 * DAY, NOW + DAY),
    ),
    max_size=30,
    unique_by=lambda each: each.artifact,
)
RULES = st.builds(
    Rules,
    max_size=st.none() | st.integers(0, 1000),
    min_free=st.none() | st.integers(0, 1000),
    max_age=st.none() | st.floats(0, 100 * DAY),
    stale_age=st.none() | st.floats(0, 100 * DAY),
    grace=st.floats(0, 10 * DAY),
)


@given(CANDIDATES, RULES, st.data())
def test_the_bounds_hold_or_only_what_is_protected_is_left(there: list[Candidate], rules: Rules, data: st.DataObject):
    names, keys = [each.artifact for each in there], [each.key for each in there]
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    some_keys = st.lists(st.sampled_from(keys), unique=True) if keys else st.just([])
    at = facts(
        free=data.draw(st.none() | st.integers(0, 1000)),
        leased=dict.fromkeys(data.draw(some), "somebody"),
        pinned=dict.fromkeys(data.draw(some_keys), "why"),
        stale=dict.fromkeys(data.draw(some_keys), NOW - DAY),
    )
    planned = plan(there, rules, at)
    assert sorted(each.candidate.artifact for each in planned.decisions) == sorted(names)
    assert planned.after == sum(each.candidate.size for each in planned.decisions if not each.remove)
    for each in planned.decisions:
        assert explain(each, rules, at)
        if each.remove:
            assert each.candidate.artifact not in at.leased
            assert each.candidate.kind != "entry" or each.candidate.key not in at.pinned
    if planned.over or planned.short:
        assert {each.reason for each in planned.decisions if not each.remove} <= {"leased", "pinned", "young"}
    # Nothing goes for room that need not: without the last of them, a bound would be broken.
    for_room = [each for each in planned.removals if each.reason in ("stale", "unused")]
    if for_room:
        after = planned.after + for_room[-1].candidate.size
        freed = planned.before - after
        assert (rules.max_size is not None and after > rules.max_size) or (
            rules.min_free is not None and at.free is not None and at.free + freed < rules.min_free
        )
