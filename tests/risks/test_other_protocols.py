"""Risk: a daemon or a client of a version that does not exist yet is misunderstood, ended, or waited for in vain.

The other side is scripted: it says what a later version may say.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zmq
from filelock import FileLock

from harness.scripted import Scripted
from mlc_jit import jit, variables
from mlc_jit import messages as m
from mlc_jit.locations import locate, private_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

LATER = {"rank": 7, "nested": {"what": [1, None]}}
"""Fields that no version has yet."""


def with_later_fields(message: m.Message) -> bytes:
    """The bytes of a message of a later version."""
    packed: bytes = msgpack.packb({**msgpack.unpackb(m.encode(message)), **LATER})
    return packed


@pytest.fixture
def socket(place: Place) -> Path:
    private_folder(place.runtime)
    return locate().socket


def test_a_daemon_of_another_protocol_is_left_alone_and_both_versions_are_named(
    socket: Path, double: Double, caplog: pytest.LogCaptureFixture, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    def newer(message: m.Message, _heard: list[m.Message]) -> list[Any]:
        return [m.Welcome(id=message.id, protocol=2, version="9.0")] if isinstance(message, m.Hello) else []

    with Scripted(socket, newer) as daemon, caplog.at_level(logging.WARNING, "mlc_jit"):
        path = jit(double.model(), {}, "cpu").model_lib_path
        assert socket.exists()
    assert Path(path).is_file()
    assert len(double.starts()) == 1
    assert "The daemon (version 9.0) speaks protocol 2, this client (0.1.0) protocol 1." in caplog.text
    assert not [message for message in daemon.heard if isinstance(message, m.StopRequest)]
    socket.unlink(missing_ok=True)


def test_a_later_daemon_of_this_protocol_is_understood(socket: Path, double: Double, tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.touch()

    def later(message: m.Message, _heard: list[m.Message]) -> list[Any]:
        if isinstance(message, m.Hello):
            features = (*m.FEATURES, "teleport")
            return [with_later_fields(m.Welcome(id=message.id, protocol=1, version="1.9", features=features))]
        unheard_of = msgpack.packb({"verb": "rumour", "id": message.id, "of": "a later version"})
        told = with_later_fields(m.Progress(id=message.id, stage="polishing", elapsed=1.0))
        result = with_later_fields(m.Result(id=message.id, path=str(library), key="ab" * 32, source="hit"))
        return [unheard_of, told, result]

    stages: list[str] = []
    with Scripted(socket, later):
        found = jit(double.model(), {}, "cpu", on_progress=lambda progress: stages.append(progress.stage))
    assert (found.model_lib_path, stages) == (str(library), ["polishing"])
    assert double.starts() == []
    socket.unlink(missing_ok=True)


def test_a_later_client_is_served_by_this_daemon(daemon: Daemon, double: Double) -> None:
    """One of this protocol has its library; one of another is told which protocol is spoken here, and may go."""
    path = jit(double.model(), {}, "cpu").model_lib_path
    request = m.JitRequest(
        id=5, config=(double.model() / "mlc-chat-config.json").read_bytes(), model_path=str(double.model()),
        device="cpu", python=sys.executable,
        environment=variables.collect(os.environ),
    )  # fmt: skip
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 10_000)
        dealer.connect(f"ipc://{locate().socket}")
        dealer.send(with_later_fields(m.Hello(id=4, protocol=2, version="9.0", features=("teleport",))))
        welcome = m.decode(dealer.recv(), m.REPLIES, strict=True)
        assert isinstance(welcome, m.Welcome)
        assert (welcome.id, welcome.protocol) == (4, 1)
        dealer.send(with_later_fields(request))
        result = m.decode(dealer.recv(), m.REPLIES, strict=True)
        dealer.send(msgpack.packb({"verb": "teleport", "id": 6, "to": "the library"}))
        unknown = m.decode(dealer.recv(), m.REPLIES, strict=True)
    assert isinstance(result, m.Result), result
    assert (result.path, result.source) == (path, "hit")
    assert isinstance(unknown, m.Unsupported)
    assert (unknown.id, unknown.asked) == (6, "teleport")
    assert daemon.process.poll() is None


@pytest.mark.parametrize(("verb", "asked"), [("explain", "explain"), ("pin", "keep"), ("watch", "watch")])
def test_a_daemon_that_knows_less_is_named_as_such(
    verb: str, asked: str, socket: Path, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    def older(message: m.Message, _heard: list[m.Message]) -> list[Any]:
        if isinstance(message, m.Hello):
            return [m.Welcome(id=message.id, protocol=1, version="0.0.1", features=("jit",))]
        return [m.Unsupported(id=message.id, asked=message.verb, features=("jit",))]

    words = {"explain": (double.model(), "--device", "cpu"), "pin": ("ab" * 32,), "watch": ()}[verb]
    with Scripted(socket, older), FileLock(locate().lock):  # the lock tells `mlc-jit` that a daemon serves
        done = mlc_jit(verb, *words)
    assert done.returncode == 1
    assert f"The running daemon does not know `{asked}`: it is another version's." in done.stderr
    assert "`mlc-jit stop` ends it" in done.stderr
    socket.unlink(missing_ok=True)
