"""What a client says and makes of what it hears, with a daemon that follows the test's script."""

from __future__ import annotations

import asyncio
import os
import socket as socket_module
import threading
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import until
from harness.scripted import Scripted, busy, silent
from mlc_jit import (
    AccessRefusedError,
    CompileError,
    DaemonUnavailableError,
    DrainingError,
    JITCall,
    JitError,
    WaitTimedOutError,
    ajit,
    ajit_many,
    autostart,
    conversation,
    fallback,
    jit,
    jit_many,
    vigil,
)
from mlc_jit import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.daemons import Place

Script = "Callable[[m.Message, list[m.Message]], list[m.Message]]"


@pytest.fixture(params=["jit", "ajit"])
def ask(request: pytest.FixtureRequest, model: Callable[..., Path]) -> Callable[..., Any]:
    """Asks for one library, in either way."""
    folder = model()

    def blocking(**named: Any) -> str:
        return jit(folder, {}, "cpu", **named).model_lib_path

    def awaited(**named: Any) -> str:
        return asyncio.run(ajit(folder, {}, "cpu", **named)).model_lib_path

    return blocking if request.param == "jit" else awaited


def hit(message: m.Message, library: str) -> m.Result:
    return m.Result(id=message.id, path=library, key="k")


def test_a_full_queue_is_asked_again_under_the_same_id(socket: Path, library: str, ask: Callable[..., Any]) -> None:
    def script(message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        if not isinstance(message, m.JitRequest):
            return []
        return [busy(message) if sum(isinstance(each, m.JitRequest) for each in heard) < 2 else hit(message, library)]

    stages: list[str] = []
    with Scripted(socket, script) as daemon:
        assert ask(on_progress=lambda p: stages.append(p.stage)) == library
    assert len({each.id for each in daemon.asked()}) == 1
    assert stages == ["busy"]


def test_how_long_a_full_queue_is_waited_for_is_a_setting(
    socket: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD_BUSY_SECONDS", "0")
    full = lambda message, _: [busy(message)] if message.verb == "jit" else []  # noqa: E731
    with Scripted(socket, full) as daemon, pytest.raises(JitError, match="full"):
        ask()
    assert len(daemon.asked()) == 1


def test_a_daemon_that_ends_in_mid_wait_is_replaced_and_asked_the_same_under_the_same_id(
    socket: Path, library: str, ask: Callable[..., Any]
) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    with Scripted(socket, silent) as first:
        thread.start()
        until(first.asked)
    socket.unlink(missing_ok=True)
    with Scripted(socket, lambda message, _: [hit(message, library)]) as second:
        thread.join()
    assert found == [library]
    assert [each.id for each in first.asked()] == [each.id for each in second.asked()]


def test_a_daemon_that_has_left_its_path_is_heard_out(
    socket: Path, library: str, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drains: nobody finds it any more, and it still answers whom it serves."""
    looked: list[object] = []
    ensure = autostart.ensure
    monkeypatch.setattr(autostart, "ensure", lambda places: (looked.append(places), ensure(places)))

    def script(message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        socket.unlink(missing_ok=True)
        asked = [each for each in heard if isinstance(each, m.JitRequest)]
        if isinstance(message, m.Hello) and len([each for each in heard if isinstance(each, m.Hello)]) > 1:
            return [m.Welcome(id=message.id, protocol=m.PROTOCOL)]
        return [hit(asked[0], library)] if len(asked) == 3 else []  # the second comes with the greeting

    monkeypatch.setattr(vigil, "PROBE_SECONDS", 0.3)
    with Scripted(socket, script) as daemon:
        assert ask() == library
    assert len(looked) == 1
    assert len({each.id for each in daemon.asked()}) == 1


def test_a_draining_daemon_is_left_for_its_successor(socket: Path, library: str, ask: Callable[..., Any]) -> None:
    turns = iter([m.Failure(id=0, kind="draining", message="going"), None])

    def script(message: m.Message, _heard: list[m.Message]) -> list[m.Message]:
        if not isinstance(message, m.JitRequest):
            return []
        refused = next(turns)
        return [m.Failure(id=message.id, kind="draining", message="going") if refused else hit(message, library)]

    with Scripted(socket, script) as daemon:
        assert ask() == library
    assert len(daemon.asked()) == 2


def test_a_draining_daemon_that_nobody_can_replace_yet_is_asked_until_its_successor_answers(
    socket: Path, library: str, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "LAST_PAUSE_SECONDS", 0.02)
    drains = conversation.TRIES * 3

    def script(message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        if not isinstance(message, m.JitRequest):
            return []
        asked = sum(isinstance(each, m.JitRequest) for each in heard)
        return [
            m.Failure(id=message.id, kind="draining", message="going") if asked <= drains else hit(message, library)
        ]

    with Scripted(socket, script) as daemon:
        assert ask() == library
    assert len(daemon.asked()) == drains + 1
    monkeypatch.setenv("MLC_JITD_BUSY_SECONDS", "0")
    drains = 1000
    with Scripted(socket, script), pytest.raises(DrainingError):
        ask()


def test_a_missing_heartbeat_sends_the_question_again_and_silence_ends_it(
    socket: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "PROBE_SECONDS", 0.1)
    monkeypatch.setenv("MLC_JITD_DAEMON_SILENCE_SECONDS", "0.8")
    with Scripted(socket, silent) as daemon, pytest.raises(DaemonUnavailableError, match="said nothing") as caught:
        ask()
    assert caught.value.reason == "silent"
    assert len(daemon.asked()) >= 2
    assert len({each.id for each in daemon.asked()}) == 1


def test_the_callers_own_time_limit(socket: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(socket, silent) as daemon:
        with pytest.raises(WaitTimedOutError, match="timeout") as caught:
            ask(timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        until(daemon.left)
        monkeypatch.setenv("MLC_JITD_WAIT_SECONDS", "0.2")
        with pytest.raises(WaitTimedOutError):
            ask()
        until(lambda: len(daemon.left()) == 2)
    assert daemon.left() == [each.id for each in daemon.asked()]


def test_the_same_words_again_are_not_decoded_but_another_library_is_noticed(
    socket: Path, library: str, place: Place, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model()
    other = place.root / "other.so"
    other.touch()
    paths = iter([library, library, str(other), str(other), library])
    with Scripted(socket, lambda message, _: [hit(message, next(paths))] if message.verb == "jit" else []):
        found = [jit(folder, {}, "cpu").model_lib_path for _ in range(5)]
    assert found == [library, library, str(other), str(other), library]


def test_a_config_that_changed_is_another_question(socket: Path, library: str, model: Callable[..., Path]) -> None:
    folder = model()
    config = folder / "mlc-chat-config.json"
    before = config.stat()
    with Scripted(socket, lambda message, _: [hit(message, library)] if message.verb == "jit" else []) as daemon:
        jit(folder, {}, "cpu")
        jit(folder, {}, "cpu")
        config.write_bytes(config.read_bytes().replace(b"l", b"L"))
        os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))  # no stat would tell
        jit(folder, {}, "cpu")
    first, second, third = (each.config for each in daemon.asked())
    assert first == second != third


@pytest.mark.parametrize(
    "other",
    [
        {"max_batch_size": True},
        {"max_batch_size": 1.0},
        {"max_batch_size": "1"},
        {"max_batch_size": 1, "opt": "O3"},
        {},
    ],
)
def test_arguments_that_are_equal_to_a_dict_are_not_taken_for_each_other(
    other: dict[str, Any], socket: Path, library: str, model: Callable[..., Path]
) -> None:
    folder = model()
    with Scripted(socket, lambda message, _: [hit(message, library)] if message.verb == "jit" else []) as daemon:
        for given in ({"max_batch_size": 1}, other, {"max_batch_size": 1}):
            jit(folder, given, "cpu")
    first, second, third = ((repr(each.overrides), each.opt) for each in daemon.asked())
    assert first == third != second


# --- several at once ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["jit_many", "ajit_many"])
def ask_many(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    def awaited(calls: Any, **named: Any) -> list[Any]:
        return asyncio.run(ajit_many(calls, **named))

    return jit_many if request.param == "jit_many" else awaited


def calls(folder: Path, count: int) -> list[JITCall]:
    return [JITCall(folder, {"max_batch_size": number}, "cpu") for number in range(1, count + 1)]


def number(message: m.Message) -> int:
    assert isinstance(message, m.JitRequest)
    return int(message.overrides["max_batch_size"] or 0)


def test_all_are_asked_before_any_is_answered_and_answers_find_their_own(
    socket: Path, place: Place, model: Callable[..., Path], ask_many: Callable[..., list[Any]]
) -> None:
    def script(_message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        asked = [each for each in heard if isinstance(each, m.JitRequest)]
        return (
            [hit(each, str(place.folder(f"l{number(each)}"))) for each in reversed(asked)] if len(asked) == 40 else []
        )

    with Scripted(socket, script):
        found = ask_many(calls(model(), 40))
    assert [each.model_lib_path for each in found] == [str(place.root / f"l{n}") for n in range(1, 41)]


def test_more_than_a_connection_holds_at_a_time(
    socket: Path, library: str, model: Callable[..., Path], ask_many: Callable[..., list[Any]]
) -> None:
    with Scripted(socket, lambda message, _: [hit(message, library)] if message.verb == "jit" else []):
        found = ask_many([(model(), {}, "cpu")] * 1500)
    assert {each.model_lib_path for each in found} == {library}
    assert len(found) == 1500


def partly(library: str) -> Any:
    def script(message: m.Message, _heard: list[m.Message]) -> list[m.Message]:
        if not isinstance(message, m.JitRequest) or number(message) == 3:
            return []  # one that takes long
        if number(message) == 2:
            return [m.Failure(id=message.id, kind="compile-failed", message="no such layer")]
        return [hit(message, library)]

    return script


def test_the_first_error_is_raised_and_the_other_waits_end(
    socket: Path, library: str, model: Callable[..., Path], ask_many: Callable[..., list[Any]]
) -> None:
    with Scripted(socket, partly(library)) as daemon:
        with pytest.raises(CompileError, match="no such layer"):
            ask_many(calls(model(), 3))
        until(daemon.left)
    assert [number(each) for each in daemon.asked() if each.id in daemon.left()] == [3]


def test_errors_take_the_place_of_results_where_that_is_wanted(
    socket: Path, library: str, model: Callable[..., Path], ask_many: Callable[..., list[Any]]
) -> None:
    wanted = [*calls(model(), 3), JITCall(model("other"), {"max_batch_size": object()}, "cpu")]
    with Scripted(socket, partly(library)):
        found = ask_many(wanted, return_exceptions=True, timeout=0.5)
    assert [type(each).__name__ for each in found] == [
        "JITResult", "CompileError", "WaitTimedOutError", "OverrideInvalidError",
    ]  # fmt: skip


def test_a_call_that_is_wrong_by_itself_is_raised_before_anything_is_asked(
    socket: Path, library: str, model: Callable[..., Path]
) -> None:
    with Scripted(socket, partly(library)) as daemon:
        with pytest.raises(JitError, match="must be a number"):
            jit_many([*calls(model(), 1), (model(), {"max_batch_size": object()}, "cpu")])
        assert daemon.asked() == []


def test_none_at_all(ask_many: Callable[..., list[Any]]) -> None:
    assert ask_many([]) == []


# --- event loops ----------------------------------------------------------------------------------------------------


def test_many_wait_in_a_loop_over_one_connection_and_no_thread(
    socket: Path, library: str, model: Callable[..., Path]
) -> None:
    folder = model()
    gate = threading.Event()

    def script(_message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        asked = [each for each in heard if isinstance(each, m.JitRequest)]
        if len(asked) < 50:
            return []
        gate.wait()
        return [hit(each, library) for each in asked]

    async def main() -> tuple[int, int, list[Any]]:
        before = threading.active_count()
        tasks = [asyncio.create_task(ajit(folder, {}, "cpu")) for _ in range(50)]
        while len(daemon.asked()) < 50:  # noqa: ASYNC110 - another thread hears it
            await asyncio.sleep(0.01)
        during = threading.active_count()
        gate.set()
        return before, during, await asyncio.gather(*tasks)

    with Scripted(socket, script) as daemon:
        before, during, found = asyncio.run(main())
    assert during == before
    assert {each.model_lib_path for each in found} == {library}
    assert sum(isinstance(each, m.Hello) for each in daemon.heard) == 1


def test_cancelling_one_ends_its_wait_alone_and_tells_the_daemon(
    socket: Path, library: str, model: Callable[..., Path]
) -> None:
    folder = model()

    def script(message: m.Message, heard: list[m.Message]) -> list[m.Message]:
        return [hit(heard[-2], library)] if isinstance(message, m.Leave) else []

    async def main() -> str:
        first = asyncio.create_task(ajit(folder, {"max_batch_size": 1}, "cpu"))
        while not daemon.asked():  # noqa: ASYNC110 - another thread hears it
            await asyncio.sleep(0.01)
        second = asyncio.create_task(ajit(folder, {"max_batch_size": 2}, "cpu"))
        while len(daemon.asked()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return (await second).model_lib_path

    with Scripted(socket, script) as daemon:
        assert asyncio.run(main()) == library
    assert daemon.left() == [daemon.asked()[0].id]


def test_each_loop_has_its_own_connection_and_a_new_one_is_no_obstacle(
    socket: Path, library: str, model: Callable[..., Path]
) -> None:
    folder = model()
    with Scripted(socket, lambda message, _: [hit(message, library)] if message.verb == "jit" else []):
        for _ in range(5):
            assert asyncio.run(ajit(folder, {}, "cpu")).model_lib_path == library


def test_what_on_progress_raises_is_its_callers_in_a_loop(
    socket: Path, library: str, model: Callable[..., Path]
) -> None:
    def script(message: m.Message, _heard: list[m.Message]) -> list[m.Message]:
        if not isinstance(message, m.JitRequest):
            return []
        return [m.Progress(id=message.id, stage="start")] if message.progress else [hit(message, library)]

    def raises(_progress: m.Progress) -> None:
        raise KeyError("mine")

    folder = model()

    async def main() -> str:
        with pytest.raises(KeyError, match="mine"):
            await ajit(folder, {}, "cpu", on_progress=raises)
        return (await ajit(folder, {}, "cpu")).model_lib_path

    with Scripted(socket, script) as daemon:
        assert asyncio.run(main()) == library
        until(daemon.left)


def test_without_a_daemon_a_loop_goes_on_while_the_work_is_done(
    place: Place, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("MLC_JITD_SOCKET", str(place.root / ("x" * 110)))

    went_on = threading.Event()

    def once(_request: m.JitRequest, _tell: Any, interrupt: Any, _deadline: Any) -> m.Result:
        assert went_on.wait(10), "the loop stood still"
        interrupt.check()
        return m.Result(path=library, key="k", source="compiled")

    monkeypatch.setattr(fallback, "once", once)

    async def main() -> str:
        waiting = asyncio.create_task(ajit(model(), {}, "cpu"))
        for _ in range(5):
            await asyncio.sleep(0.01)
            assert not waiting.done()
        went_on.set()
        return (await waiting).model_lib_path

    assert asyncio.run(main()) == library


@pytest.mark.parametrize("trouble", ["an open folder", "permission"])
def test_over_what_may_not_be_used_nothing_is_started(
    trouble: str, place: Place, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setenv("MLC_JITD", "require")

    class Refused(socket_module.socket):
        def connect(self, _address: Any) -> None:
            raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(autostart, "_start", started.append)
        if trouble == "permission":
            patched.setattr(socket_module, "socket", Refused)
        else:
            place.runtime.chmod(0o777)
        with pytest.raises(AccessRefusedError):
            ask()
    assert started == []
