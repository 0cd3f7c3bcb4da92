"""The short way to a library that is there: the same bytes as the long one's, nothing loaded that it does not need."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.scripted import Scripted
from mlc_jit import _version, api, channel, hit, jit, log, request
from mlc_jit import messages as m

from harness.daemons import until  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.daemons import Daemon
    from harness.doubles import Double

NOT_FOR_A_HIT = (
    "mlc_jit.asking", "mlc_jit.conversation", "mlc_jit.messages.base", "mlc_jit.messages.codec",
    "mlc_jit.messages.core", "mlc_jit.vigil", "mlc_jit.locations", "mlc_jit.autostart", "dataclasses", "inspect",
    "pathlib", "logging", "socket",
)  # fmt: skip

WHOLE = """
import sys
before = set(sys.modules)
from mlc_jit import jit
path = jit(sys.argv[1], {}, "cpu").model_lib_path
import json
print(json.dumps([path, sorted(set(sys.modules) - before)]))
"""


@pytest.mark.parametrize("overrides", [None, {"max_batch_size": 4, "nothing": None}, {"opt": "O3"}, {"opt": ""}])
@pytest.mark.parametrize("environment", [{}, {"MLC_JITD_ACCELERATION": "off", "CUDA_VISIBLE_DEVICES": "1"}])
@pytest.mark.parametrize("prefix", [None, "a_"])
def test_a_question_has_the_bytes_of_its_typed_request(
    model: Callable[..., Path],
    overrides: Any,
    environment: dict[str, str],
    prefix: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = model()
    asked = request.question(folder, overrides, "cpu", prefix, progress=True)
    typed = api.make_request(folder, overrides, "cpu", prefix, policy="ON", progress=True)
    assert asked.frame(0) == m.encode(typed)
    assert asked.request == typed
    assert m.decode(asked.frame(7), m.REQUESTS, strict=True).id == 7


def test_the_first_word_has_the_bytes_of_its_typed_message() -> None:
    typed = m.Hello(id=3, protocol=m.PROTOCOL, version=_version.__version__, features=m.FEATURES)
    assert channel.hello(3) == m.encode(typed)


def test_a_process_that_hits_loads_nothing_else(daemon: Daemon, double: Double) -> None:
    model = double.model()
    first = jit(model, {}, "cpu").model_lib_path
    done = subprocess.run([sys.executable, "-c", WHOLE, model], capture_output=True, text=True, check=True, timeout=40)
    path, loaded = json.loads(done.stdout)
    assert path == first
    assert "mlc_jit.hit" in loaded
    assert ", ".join(sorted(set(loaded) & set(NOT_FOR_A_HIT))) == ""


def test_a_hit_is_asked_for_each_time_and_known_by_its_bytes(
    socket: Path, library: str, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model()
    with Scripted(socket, lambda message, _: [m.Result(id=message.id, path=library, key="k")]) as daemon:
        for _ in range(3):
            jit(folder, {}, "cpu")
        monkeypatch.setattr(hit, "unpack", None)
        monkeypatch.setattr(hit, "LOOK_SECONDS", -1.0)
        assert jit(folder, {}, "cpu").model_lib_path == library
        assert len(daemon.asked()) == 4


def test_an_id_in_another_form_makes_no_other_answer(
    socket: Path, library: str, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that decodes the question writes ids as short as they are, one that knows its bytes as they came."""
    folder = model()
    monkeypatch.setattr(channel, "next_id", itertools.count(1000).__next__)
    with Scripted(socket, lambda message, _: [m.Result(id=message.id, path=library, key="k")]):
        for _ in range(3):
            jit(folder, {}, "cpu")
        for _ in range(2):
            call = hit.recall(folder, {}, "cpu", None)
            assert call is not None
            assert isinstance(call.ask(), hit.Hit)


@pytest.mark.parametrize(
    "change",
    ["environment", "standard error", "interpreter", "library"],
)
def test_what_else_changed_is_noticed(
    change: str, socket: Path, library: str, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model()
    with Scripted(socket, lambda message, _: [m.Result(id=message.id, path=library, key="k")]):
        for _ in range(3):
            jit(folder, {}, "cpu")
        assert hit.recall(folder, {}, "cpu", None) is not None
        monkeypatch.setattr(hit, "LOOK_SECONDS", -1.0)
        if change == "environment":
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        elif change == "standard error":
            monkeypatch.setattr(sys, "stderr", sys.__stdout__)
        elif change == "interpreter":
            monkeypatch.setattr(sys, "executable", "/another/python")
        else:
            os.unlink(library)  # noqa: PTH108 - text
        assert hit.recall(folder, {}, "cpu", None) is None


def test_a_warning_is_told_though_it_is_a_hit(
    socket: Path, library: str, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(log, "warning", lambda _text, *arguments: told.append(str(arguments[0])))
    with Scripted(socket, lambda message, _: [m.Result(id=message.id, path=library, key="k", warning="Old.")]):
        folder = model()
        for _ in range(2):
            jit(folder, {}, "cpu")
    assert told == ["Old."]


def test_ctrl_c_while_a_hit_is_waited_for_is_told_the_daemon(
    socket: Path, library: str, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model()

    def interrupted(self: channel.Channel, frame: bytes) -> bytes:
        self.post(frame)
        raise KeyboardInterrupt

    with Scripted(socket, lambda message, _: [m.Result(id=message.id, path=library, key="k")]) as daemon:
        jit(folder, {}, "cpu")
        monkeypatch.setattr(channel.Channel, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jit(folder, {}, "cpu")
        until(daemon.left, what="the daemon to hear of it")
        assert daemon.left()[0] == daemon.asked()[-1].id
