"""What is looked at again and again, in one thread: one room that hangs or fails keeps no other from its turn."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from harness.leftovers import until
from mlc_jitd import rounds
from mlc_jitd.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def made() -> Iterator[Rounds]:
    found = Rounds(0.01)
    yield found
    found.close()


def test_a_call_that_fails_keeps_no_other_from_its_turn(made: Rounds, caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def fails() -> None:
        called.append("fails")
        raise ValueError("no")

    made.add(fails)
    made.add(lambda: called.append("next"))
    made.start()
    until(lambda: called[:4] == ["fails", "next", "fails", "next"])
    assert "fails failed" in caplog.text


def test_a_call_that_hangs_is_left_behind_and_comes_back(made: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    called = {"hangs": 0, "other": 0}

    def hangs() -> None:
        called["hangs"] += 1
        gate.wait(15)

    def other() -> None:
        called["other"] += 1

    made.add(other)
    made.add(hangs)
    made.start()
    until(lambda: called["hangs"] == 1)
    assert not made.check(), "it has not hung for long"
    monkeypatch.setattr(rounds, "HANG_SECONDS", 0.0)
    assert made.check()
    monkeypatch.undo()
    before = called["other"]
    until(lambda: called["other"] > before + 3)
    assert called["hangs"] == 1, "it is not called again while it hangs"
    gate.set()
    until(lambda: called["hangs"] > 3)
    assert [each.name for each in threading.enumerate()].count("rounds") == 1
