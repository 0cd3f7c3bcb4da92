"""Which keys are asked for, which not any more, and which are kept: the pure part."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_jit.messages import JitRequest
from mlc_jitd.asks import GONE, UNSEEN, Folder, Question, digest, pinned, stale
from mlc_jitd.asks.folder import MOST_ANSWERS, MOST_QUESTIONS

CPU = Question(device="cpu", python="/p", environment='{"PATH": "/bin"}')
GPU = replace(CPU, device="cuda:0")


def seen(config: str = "one", key: str = "k1") -> Folder:
    return Folder(path="/m").told(CPU, config, key, now=1.0).saw(config, now=2.0)


def test_a_question_comes_back_as_the_request_that_it_was() -> None:
    request = JitRequest(
        config=b"{}", model_path="/m", overrides={"a": 1, "b": True, "c": 0.5, "d": "x"}, opt="O1", device="cuda:1",
        system_lib_prefix="p", python="/py", toolchain="tvm", environment={"PATH": "/bin"},
        acceleration="off",
    )  # fmt: skip
    again = Question.of(request).request(b"{}", "/m")
    assert again == replace(request, prewarm=True)
    assert repr(again.overrides) == repr(request.overrides)
    assert Question.of(replace(request, overrides={"a": 1})) != Question.of(replace(request, overrides={"a": True}))


def test_what_only_its_user_named_is_in_a_question_while_it_is_kept() -> None:
    secret = replace(CPU, environment='{"HF_TOKEN": "hf_secret", "PATH": "/bin"}')
    asked = Folder(path="/m").told(secret, "one", "k1", now=1.0)
    assert [ask.question for ask in asked.asks] == [CPU]
    kept = asked.keeping(secret, "pin", "k1").told(secret, "one", "k1", now=2.0)
    assert [(ask.question, ask.keep) for ask in kept.asks] == [(secret, "pin")]
    assert [ask.question for ask in kept.letting_go().asks] == [CPU]


def test_what_is_asked_for_is_not_stale() -> None:
    assert stale([seen()]) == {}
    assert seen().current() == {"k1"}


def test_a_changed_config_makes_its_key_stale_and_the_change_back_undoes_it() -> None:
    changed = seen().saw("two", now=3.0)
    assert stale([changed]) == {"k1": 3.0}
    assert stale([changed.saw("one", now=4.0)]) == {}


def test_a_change_that_does_not_reach_the_key_makes_nothing_stale() -> None:
    assert stale([seen().saw("two", now=3.0).told(CPU, "two", "k1", now=0.0)]) == {}


def test_a_vanished_folder_makes_all_its_keys_stale() -> None:
    folder = seen().told(GPU, "one", "k2", now=2.5)
    assert stale([folder.saw(GONE, now=3.0)]) == {"k1": 3.0, "k2": 3.0}
    assert stale([folder.saw(GONE, now=3.0).saw("one", now=4.0)]) == {}


def test_a_key_that_another_folder_asks_for_is_not_stale() -> None:
    other = replace(seen(), path="/other")
    assert stale([seen().saw("two", now=3.0), other]) == {}


def test_what_is_asked_for_again_is_back_to_normal() -> None:
    """Somebody sees another folder under that name: in a container, say."""
    changed = seen().saw("two", now=3.0).told(CPU, "one", "k1", now=4.0)
    assert stale([changed]) == {}
    assert stale([changed.saw("three", now=5.0)]) == {"k1": 5.0}


def test_a_folder_that_the_daemon_does_not_see_makes_nothing_stale() -> None:
    elsewhere = Folder(path="/m").told(CPU, "one", "k1", now=1.0)
    assert elsewhere.saw("mine", now=2.0).config == UNSEEN
    assert elsewhere.saw(GONE, now=2.0).config == UNSEEN
    both = elsewhere.told(CPU, "mine", "k2", now=3.0).saw("mine", now=4.0)
    assert both.config == "mine"
    assert stale([both]) == {}


def test_a_replaced_compiler_makes_its_keys_stale_and_the_way_back_undoes_it() -> None:
    upgraded = seen().told(CPU, "one", "k2", now=5.0)
    assert stale([upgraded]) == {"k1": 5.0}
    assert upgraded.current() == {"k2"}
    back = upgraded.told(CPU, "one", "k1", now=6.0)
    assert stale([back]) == {"k2": 6.0}


def test_a_pin_holds_one_key_until_it_moves() -> None:
    folder = seen().keeping(CPU, "pin", "k1")
    assert list(pinned([folder])) == ["k1"]
    changed = folder.saw("two", now=3.0).told(CPU, "two", "k2", now=0.0)
    assert list(pinned([changed])) == ["k1"]  # nothing was compiled yet
    moved = changed.keeping(CPU, "pin", "k2")
    assert pinned([moved]) == {"k2": "pinned for /m on cpu"}
    assert pinned([moved.letting_go()]) == {}
    assert pinned([], ["k9"]) == {"k9": "pinned"}


def test_a_prewarmed_question_is_kept_but_not_pinned() -> None:
    warm = seen().keeping(CPU, "prewarm", "k1")
    assert (warm.keep, pinned([warm])) == ("prewarm", {})
    assert seen().keeping(CPU, "pin", "k1").keeping(CPU, "prewarm", "k1").keep == "pin"


def test_an_environment_that_changes_nothing_is_no_other_question() -> None:
    other = replace(CPU, environment='{"PATH": "/elsewhere"}')
    folder = seen().keeping(CPU, "pin", "k1").told(other, "one", "k1", now=3.0)
    (ask,) = folder.asks
    assert (ask.question, ask.keep) == (other, "pin")
    assert len(folder.told(replace(CPU, environment='{"X": "1"}'), "one", "k2", now=4.0).asks) == 2


def test_it_is_bounded_but_keeps_what_is_kept() -> None:
    folder = seen().keeping(CPU, "pin", "k1")
    for number in range(MOST_QUESTIONS * 2):
        folder = folder.told(replace(CPU, device=f"cuda:{number}"), "one", f"g{number}", now=float(number))
    assert len(folder.asks) == MOST_QUESTIONS
    assert folder.keep == "pin"
    for number in range(MOST_ANSWERS * 2):
        folder = folder.told(CPU, f"config{number}", f"key{number}", now=100.0 + number)
    assert len(folder.asks[0].answered) == MOST_ANSWERS


def test_a_digest_is_the_contents() -> None:
    assert digest(b"{}") == digest(b"{}") != digest(b"{} ")


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("AB"), st.sampled_from("123")),
        st.tuples(st.just("see"), st.sampled_from("AB"), st.sampled_from(["1", "2", "3", GONE])),
    ),
    max_size=14,
)


@given(EVENTS)
@settings(max_examples=200, deadline=None)
def test_stale_is_what_was_asked_for_and_is_not_any_more(events: list[tuple[str, str, str]]) -> None:
    """Against the sentence itself, over two folders, three configs and a key that two configs share."""
    folders = {name: Folder(path=f"/{name}") for name in "AB"}
    asked: dict[tuple[str, str], int] = {}
    holds: dict[str, tuple[str, int]] = {}
    keys = {"1": "k1", "2": "k2", "3": "k2"}
    for now, (what, name, config) in enumerate(events, 1):
        if what == "ask":
            folders[name] = folders[name].told(CPU, config, keys[config], now=float(now))
            asked[name, config] = now
        else:
            folders[name] = folders[name].saw(config, now=float(now))
            if name in holds and holds[name][0] != config:
                holds[name] = (config, now)
            elif name not in holds and (name, config) in asked:
                holds[name] = (config, 0)
    current, ever = set(), set()
    for (name, config), when in asked.items():
        ever.add(keys[config])
        present, since = holds.get(name, (config, 0))
        if config == present or when > since:
            current.add(keys[config])
    assert set(stale(folders.values())) == ever - current


@pytest.mark.parametrize("keep", ["pin", "prewarm"])
def test_letting_go_ends_every_kind(keep: str) -> None:
    assert seen().keeping(CPU, keep, "k1").letting_go().keep == ""  # type: ignore[arg-type]
