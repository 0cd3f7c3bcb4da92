"""Remembered answers: given only while the entry and the toolchain are what they were."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlc_jit.messages import REPLIES, JitRequest, cut, decode, encode, paste
from mlc_jitd import answers
from mlc_jitd.answers import Answers, Frames

REQUEST = JitRequest(id=1, config=b"{}", device="cpu", python="python", overrides={"max_batch_size": 1})
IDENTITY: Any = SimpleNamespace(result_prefix=None)
MANIFEST = SimpleNamespace(
    compile=SimpleNamespace(seconds=3.0), toolchain=SimpleNamespace(name="tvm"), degraded=("x: y",)
)
ENTRY: Any = SimpleNamespace(path="/cache/lib.so", key="k" * 64, manifest=MANIFEST)


class World:
    """What stat would say, and how often it was asked about the toolchain."""

    entry_same = toolchain_same = True
    looks = 0

    def __init__(self) -> None:
        self.lent: list[tuple[bytes, int, object]] = []

    def lend(self, connection: bytes, pid: int, entry: object) -> None:
        self.lent.append((connection, pid, entry))

    def entry(self, _entry: object) -> bool:
        return self.entry_same

    def toolchain(self, _identity: object) -> bool:
        self.looks += 1
        return self.toolchain_same


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def known(world, monkeypatch) -> Answers:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(answers, "time", SimpleNamespace(monotonic=lambda: clock.now))
    made = Answers(world.entry, world.toolchain, world.lend)
    made.remember(REQUEST, IDENTITY, ENTRY)
    cast("Any", made).clock = clock
    return made


def test_a_known_request_is_answered_with_its_own_id(known):
    reply = known.recall(b"one", 1, dataclasses.replace(REQUEST, id=77))
    assert reply is not None
    assert (reply.id, reply.path, reply.source, reply.degraded) == (77, "/cache/lib.so", "hit", ("x: y",))


@pytest.mark.parametrize("policy", ["REDO", "OFF"])
def test_a_policy_that_wants_no_cache_gets_none(known, policy):
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, policy=policy)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"config": b"{ }"},
        {"device": "cuda"},
        {"opt": "O3"},
        {"system_lib_prefix": "p"},
        {"python": "other"},
        {"toolchain": "tvm"},
        {"overrides": {"max_batch_size": True}},
        {"overrides": {"max_batch_size": 1.0}},
        {"environment": {"PATH": "/bin"}},
    ],
)
def test_every_field_that_reaches_the_key_is_part_of_the_question(known, change):
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, **change)) is None


def test_whether_progress_is_wanted_is_not(known):
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, progress=True)) is not None


def test_each_folder_that_asks_goes_the_long_way_once(known):
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, model_path="/elsewhere")) is None


def test_what_is_forgotten_goes_the_long_way_once(known):
    known.forget({"another"})
    assert known.recall(b"one", 1, REQUEST) is not None
    known.forget({known.recall(b"one", 1, REQUEST).key})
    assert known.recall(b"one", 1, REQUEST) is None


def test_a_changed_entry_is_forgotten(known, world):
    world.entry_same = False
    assert known.recall(b"one", 1, REQUEST) is None
    world.entry_same = True
    assert known.recall(b"one", 1, REQUEST) is None, "it must go the long way once"


def test_one_look_at_the_toolchain_counts_for_a_few_milliseconds(known, world):
    for _ in range(10):
        assert known.recall(b"one", 1, REQUEST) is not None
    assert world.looks == 1
    world.toolchain_same = False
    known.clock.now += 2 * answers.LOOK_SECONDS
    assert known.recall(b"one", 1, REQUEST) is None
    assert world.looks == 2


def test_a_look_is_renewed_while_nobody_waits_for_it_and_only_then(known, world):
    def ask():
        return known.recall(b"one", 1, REQUEST)

    assert ask() is not None
    assert world.looks == 1
    known.rest()
    assert world.looks == 1, "it is new"
    known.clock.now += 0.6 * answers.LOOK_SECONDS
    known.rest()
    known.clock.now += 0.6 * answers.LOOK_SECONDS
    assert ask() is not None
    assert world.looks == 2, "the look of the rest still counts"
    known.clock.now += 1.2 * answers.LOOK_SECONDS
    known.rest()
    assert world.looks == 2, "nobody has asked for so long"
    assert ask() is not None
    known.clock.now += 0.6 * answers.LOOK_SECONDS
    world.toolchain_same = False
    known.rest()
    assert ask() is None, "what the rest saw is believed at once"


def test_the_memory_is_bounded(known, monkeypatch):
    monkeypatch.setattr(answers, "REMEMBERED", 3)
    for number in range(10):
        known.remember(dataclasses.replace(REQUEST, device=f"cuda:{number}"), IDENTITY, ENTRY)
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, device="cuda:9")) is not None
    assert known.recall(b"one", 1, REQUEST) is None


def test_an_entry_is_lent_before_it_is_looked_at(known, world, monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(known, "_lend", lambda *_: order.append("lent"))
    monkeypatch.setattr(known, "_entry_unchanged", lambda _: order.append("looked") or True)
    assert known.recall(b"one", 1, REQUEST) is not None
    assert order == ["lent", "looked"]


def test_what_is_not_handed_out_is_not_lent(known, world):
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, policy="REDO")) is None
    assert known.recall(b"one", 1, dataclasses.replace(REQUEST, device="cuda:9")) is None
    assert world.lent == []


# --- frames ---------------------------------------------------------------------------------------------------------


def frame(id_: int = 1, **changes: Any) -> bytes:
    return encode(dataclasses.replace(REQUEST, id=id_, **changes))


@pytest.fixture
def frames(known) -> Frames:
    made = Frames(known)
    made.learn(1000, frame(), REQUEST)
    return made


def test_a_frame_that_was_decoded_once_is_answered_by_its_bytes(frames, world):
    for id_ in (1, 127, 128, 65_536, 1 << 40):
        for _ in range(2):  # as one of many, and as the one that this connection asked last
            found = frames.reply(b"one", 1000, 7, frame(id_))
            assert found is not None
            assert decode(found, REPLIES, strict=True) == answers.result(id_, IDENTITY, ENTRY)
    assert world.lent[-1] == (b"one", 7, ENTRY)


def wide(id_: int) -> bytes:
    """A frame as ``jit()`` sends it."""
    before, _, after = cut(frame()) or (b"", 0, b"")
    return paste(before, id_, after)


def test_one_look_counts_for_all_that_had_been_asked_before_it_and_no_longer(frames, world, monkeypatch):
    looks: list[str] = []
    monkeypatch.setattr(frames._answers, "_entry_unchanged", lambda _entry: looks.append("look") or world.entry_same)
    frames.turn()
    for id_ in range(200, 203):
        assert frames.reply(b"one", 1000, 7, wide(id_)) is not None
    assert len(looks) == 1
    world.entry_same = False
    assert frames.reply(b"one", 1000, 8, wide(204)) is None, "no lease yet: it gets one, and a look"
    world.entry_same = True
    frames.learn(1000, frame(), REQUEST)
    assert frames.reply(b"one", 1000, 7, wide(205)) is not None
    frames.turn()
    world.entry_same = False
    assert frames.reply(b"one", 1000, 7, wide(206)) is None


@pytest.mark.parametrize(
    "changes",
    [{"policy": "REDO"}, {"policy": "READONLY"}, {"config": b"{ }"}, {"overrides": {"max_batch_size": True}},
     {"environment": {"A": "b"}}, {"progress": True}, {"model_path": "/elsewhere"}],
)  # fmt: skip
def test_any_other_byte_is_another_question(frames, changes):
    assert frames.reply(b"one", 1000, 7, frame()) is not None
    assert frames.reply(b"one", 1000, 7, frame(**changes)) is None
    assert frames.reply(b"one", 1000, 7, frame()) is not None


def test_each_uid_has_its_own(frames):
    assert frames.reply(b"one", 1001, 7, frame()) is None
    assert frames.reply(b"one", 1000, 7, frame()) is not None
    assert frames.reply(b"one", 1001, 7, frame()) is None


def test_a_frame_is_looked_at_each_time_and_forgotten_when_it_no_longer_holds(frames, known, world):
    world.entry_same = False
    assert frames.reply(b"one", 1000, 7, frame()) is None
    world.entry_same = True
    assert frames.reply(b"one", 1000, 7, frame()) is None, "what was forgotten is decoded again"
    known.clock.now += 1
    frames.learn(1000, frame(), REQUEST)
    world.toolchain_same = False
    known.clock.now += 1
    assert frames.reply(b"one", 1000, 7, frame()) is None


def test_what_may_not_be_answered_from_memory_is_not_learned(known):
    frames = Frames(known)
    for request in (dataclasses.replace(REQUEST, policy="REDO"), dataclasses.replace(REQUEST, device="cuda:0")):
        frames.learn(1000, encode(request), request)
        assert frames.reply(b"one", 1000, 7, encode(request)) is None
    frames.learn(1000, frame(2), REQUEST)  # not its frame
    assert frames.reply(b"one", 1000, 7, frame(2)) is None


def test_frames_that_are_none(frames):
    for payload in (b"", b"\x80", b"\xff" * 100, frame()[:-1], frame()[1:], frame(0)[:11]):
        assert frames.reply(b"one", 1000, 7, payload) is None
    at = frame().index(b"\xa2id") + 3
    huge = frame()[:at] + b"\xcf" + b"\xff" * 8 + frame()[at + 1 :]
    assert frames.reply(b"one", 1000, 7, huge) is None, "an id that is too large is an error, which decoding says"


def test_what_answers_forget_or_replace_is_no_longer_known_by_its_bytes(frames, known):
    assert frames.reply(b"one", 1000, 7, frame()) is not None
    known.forget({ENTRY.key})
    assert frames.reply(b"one", 1000, 7, frame()) is None
    known.remember(REQUEST, IDENTITY, ENTRY)
    frames.learn(1000, frame(), REQUEST)
    assert frames.reply(b"one", 1000, 7, frame()) is not None
    known.remember(REQUEST, IDENTITY, ENTRY)
    assert frames.reply(b"one", 1000, 7, frame()) is None


def test_the_memory_of_frames_is_bounded(known, monkeypatch):
    monkeypatch.setattr(answers, "FRAMES", 3)
    frames = Frames(known)
    for number in range(10):
        request = dataclasses.replace(REQUEST, model_path=f"/{number}")
        known.remember(request, IDENTITY, ENTRY)
        frames.learn(1000, encode(request), request)
    known_ones = [n for n in range(10) if frames.reply(b"one", 1000, 7, frame(model_path=f"/{n}")) is not None]
    assert known_ones == [7, 8, 9]
