"""The watcher's thread over real folders, with the engine as values: what hangs, and what is bounded."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.leftovers import until
from mlc_jit import messages as m
from mlc_jit.messages import JitRequest
from mlc_jitd.asks import Asks
from mlc_jitd.peers import Peer
from mlc_jitd.rounds import Rounds
from mlc_jitd.watch import Watcher, arming, looks, watcher
from mlc_jitd.watch.look import look

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.daemons import Place

CONFIG = "mlc-chat-config.json"
ME = Peer(b"me", 0, 0, 0)


class World:
    """The engine and the work, as far as the watcher knows them: the key is the config."""

    def __init__(self, library: Path) -> None:
        self.asked: list[JitRequest] = []
        self.forgotten: set[str] = set()
        self.told: list[Any] = []
        engine: Any = SimpleNamespace(
            ask=lambda request, _done: self.asked.append(request),
            reply=lambda _peer, message: self.told.append(message),
            forget=self.forgotten.update,
        )
        work: Any = SimpleNamespace(identifier=SimpleNamespace(identify=self.identify))
        self.watcher = Watcher(engine, work, Asks(library))

    def identify(self, request: JitRequest) -> Any:
        return SimpleNamespace(key=request.config.hex())

    def ask(self, folder: Path) -> None:
        config = (folder / CONFIG).read_bytes()
        request = JitRequest(config=config, device="cpu", python="/p", model_path=str(folder))
        self.watcher.looked_up(ME, request, SimpleNamespace(identity=self.identify(request)))  # type: ignore[arg-type]

    def manner(self, folder: Path) -> str:
        status = m.Status(version="", pid=0, uptime=0.0, home="", socket="", log_path="")
        told = self.watcher.complete(status)
        assert isinstance(told, m.Status)
        return next((each.watched for each in told.folders if each.path == str(folder)), "")


@pytest.fixture
def world(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(watcher, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(arming, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(watcher, "sees_what_we_see", lambda _pid: True)
    place.library.mkdir()
    found = World(place.library)
    found.watcher.start()
    rounds = Rounds(0.05)
    rounds.add(found.watcher.glance)
    rounds.start()
    yield found
    rounds.close()
    found.watcher.close()


def model(place: Place, name: str) -> Path:
    folder = place.folder(name)
    (folder / CONFIG).write_text(f'{{"name": "{name}"}}')
    return folder


def test_a_folder_that_hangs_holds_no_other(world: World, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "HANG_SECONDS", 0.1)
    hung, other, gate = model(place, "hung"), model(place, "other"), threading.Event()

    def take(folder: str, *arguments: Any, **named: Any) -> Any:
        if folder == str(hung):
            gate.wait(15)
        return look(folder, *arguments, **named)

    world.watcher._looks._take = take
    world.ask(hung)
    world.ask(other)
    until(lambda: world.manner(hung) == "unreachable", what="the look to be left behind")
    until(lambda: world.manner(other) == "events", what="the other to be watched")
    key = (other / CONFIG).read_bytes().hex()
    (other / CONFIG).write_text('{"name": "new"}')
    until(lambda: key in world.forgotten, what="the change to be noticed")
    assert world.watcher._losses.read() == {"a_look_hangs": 1}
    gate.set()
    until(lambda: world.manner(hung) == "events", what="the folder to be watched again")


def test_more_folders_than_are_checked_are_scanned(world: World, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arming, "MOST_CHECKED", 2)
    folders = [model(place, f"m{number}") for number in range(4)]
    for folder in folders:
        world.ask(folder)
    until(lambda: sorted(map(world.manner, folders)) == ["events", "events", "scan", "scan"], what="two to be scanned")


def test_a_folder_that_the_daemon_does_not_see(world: World, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "sees_what_we_see", lambda _pid: False)
    folder = model(place, "m")
    request = JitRequest(config=b'{"theirs": 1}', device="cpu", python="/p", model_path=str(folder))
    world.watcher.looked_up(ME, request, SimpleNamespace(identity=world.identify(request)))  # type: ignore[arg-type]
    until(lambda: world.manner(folder) == "unseen", what="it to be unseen")
    (folder / CONFIG).write_text('{"mine": 2}')
    world.ask(folder)
    until(lambda: world.manner(folder) == "events", what="it to be watched, once somebody asked with what is there")
    assert not world.forgotten


def test_a_daemon_whose_observer_dies_goes_on(world: World, place: Place) -> None:
    folder = model(place, "m")
    world.ask(folder)
    until(lambda: world.manner(folder) == "events" and world.watcher._events.watched, what="it to be watched")

    def dies() -> bool:
        running = world.watcher._events._running
        if running is not None:
            running.close()
        return running is not None

    until(dies, what="an observer to end")
    until(
        lambda: "observer_died" in world.watcher._losses.read() and world.watcher._events.watched,
        what="another observer",
    )
    key = (folder / CONFIG).read_bytes().hex()
    (folder / CONFIG).write_text('{"name": "new"}')
    until(lambda: key in world.forgotten, what="the change to be noticed")
