"""Remembered answers: given only while the entry and the toolchain are what they were."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlc_jit.messages import JitRequest
from mlc_jitd import answers
from mlc_jitd.answers import Answers

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
