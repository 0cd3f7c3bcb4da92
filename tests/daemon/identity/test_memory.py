"""What is remembered, what happens to damaged memories, and how many subprocesses many threads start."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.identity.flight import SingleFlight
from mlc_jitd.identity.memory import MAX_FILES, Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier


def resolutions(double: ModuleType, log: Path) -> int:
    return [event for _, event in double.events(log)].count("resolve")


def test_a_fresh_daemon_imports_no_compiler_for_what_is_known(
    identifier: Identifier, ask: Callable[..., JitRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [identifier.identify(ask(device=device)).key for device in ("cpu", "android")]
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a subprocess was started"))
    fresh = type(identifier)(tmp_path / "memory")
    assert [fresh.identify(ask(device=device)).key for device in ("cpu", "android")] == known


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"name": 1}', b"\xff\xfe", b"[" * 50000])
def test_damaged_memories_are_found_out_again(
    identifier: Identifier, ask: Callable[..., JitRequest], tmp_path: Path, damage: bytes
) -> None:
    key = identifier.identify(ask(device="android")).key
    files = list((tmp_path / "memory").glob("*.json"))
    assert {path.name.partition("-")[0] for path in files} == {"probe", "target", "name"}
    for path in files:
        path.write_bytes(damage)
    assert type(identifier)(tmp_path / "memory").identify(ask(device="android")).key == key


def test_an_answer_under_another_questions_name_is_not_taken(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.put("target", "one", 1)
    memory.put("target", "two", 2)
    one, two = sorted(tmp_path.glob("*.json"))
    one.write_bytes(two.read_bytes())
    assert {memory.get("target", "one"), memory.get("target", "two")} == {None, 2} or {
        memory.get("target", "one"),
        memory.get("target", "two"),
    } == {None, 1}


def test_a_memory_that_can_not_be_written_is_none(
    identifier: Identifier, ask: Callable[..., JitRequest], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    nowhere = type(identifier)(tmp_path / "file" / "memory")
    assert nowhere.identify(ask()).key == identifier.identify(ask()).key


def test_a_memory_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m")
    memory.put("x", 1, 1)
    assert memory.get("x", 1) == 1
    (tmp_path / "m").chmod(0o777)
    assert memory.get("x", 1) is None


def test_memory_is_private_whole_and_bounded(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m")
    for number in range(MAX_FILES + 5):
        memory.put("x", number, number)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o700
    assert len(list((tmp_path / "m").iterdir())) == MAX_FILES
    assert memory.get("x", MAX_FILES + 4) == MAX_FILES + 4


def test_many_threads_with_one_question_start_one_subprocess(
    identifier: Identifier, double: ModuleType, ask: Callable[..., JitRequest], log: Path
) -> None:
    gate = threading.Barrier(8)

    def one() -> str:
        gate.wait(10)
        return identifier.identify(ask()).key

    with ThreadPoolExecutor(8) as pool:
        keys = {future.result() for future in [pool.submit(one) for _ in range(8)]}
    assert len(keys) == 1
    assert resolutions(double, log) == 1


def test_a_failure_goes_to_everybody_and_is_not_kept() -> None:
    flight, gate, entered = SingleFlight(), threading.Event(), threading.Event()

    def fails() -> int:
        entered.set()
        gate.wait(10)
        raise ValueError("no")

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(flight.do, "q", fails)
        entered.wait(10)
        follower = pool.submit(flight.do, "q", lambda: 2)
        gate.set()
        with pytest.raises(ValueError, match="no"):
            leader.result(10)
        with contextlib.suppress(ValueError):
            assert follower.result(10) == 2  # it came after the flight had ended
    assert flight.do("q", lambda: 3) == 3
