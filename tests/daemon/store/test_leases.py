"""Leases: who is handed an artifact holds it until he ends, and everybody can see that."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from harness.leftovers import until
from mlc_jit.errors import StoreError
from mlc_jitd.deaths import Deaths
from mlc_jitd.store import Leases
from mlc_jitd.store.processes import namespace, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = (f"{letter * 64}-{'0' * 16}.so" for letter in "ab")


class World:
    """Processes and the time, as values."""

    def __init__(self) -> None:
        self.now = time.time()
        self.processes: dict[int, int] = {}

    def start_of(self, pid: int) -> int | None:
        return self.processes.get(pid)

    def leases(self, folder: Path) -> Leases:
        return Leases(folder, clock=lambda: self.now, start_of=self.start_of)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_lease_ends_with_its_process(world: World, folder: Path):
    world.processes = {7: 100, 8: 200}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    leases.grant(b"two", 8, A)
    leases.grant(b"two", 8, B)
    assert set(leases.held()) == {A, B}
    del world.processes[8]
    assert {artifact: holder.pid for artifact, holder in leases.held().items()} == {A: 7}
    del world.processes[7]
    assert leases.held() == {}
    assert list(folder.iterdir()) == []


def test_another_process_of_the_same_pid_holds_nothing(world: World, folder: Path):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    world.processes = {7: 101}
    assert leases.held() == {}
    leases.grant(b"two", 7, B)
    assert set(leases.held()) == {B}


def test_others_see_it_and_a_restart_keeps_it(world: World, folder: Path):
    world.processes = {7: 100}
    world.leases(folder).grant(b"one", 7, A)
    again = world.leases(folder)
    again.revive()
    assert set(again.held()) == {A}
    again.grant(b"new connection", 7, A)
    again.grant(b"new connection", 7, B)
    (file,) = folder.iterdir()
    assert file.read_text().split() == [A, B], "what it had before is not written twice"


def test_a_second_lease_touches_no_file(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    monkeypatch.setattr(leases, "_grant", lambda *_: pytest.fail("the long way"))
    leases.grant(b"one", 7, A)


def test_another_connection_of_the_process_writes_nothing(world: World, folder: Path):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    leases.grant(b"two", 7, A)
    (file,) = folder.iterdir()
    assert file.read_text().split() == [A]


def test_a_connection_holds_until_it_ends_and_a_grace_after(world: World, folder: Path):
    leases = world.leases(folder)
    leases.grant(b"far", 0, A)
    assert leases.unseen() == [b"far"]
    assert set(leases.held()) == {A}
    assert str(leases.held()[A]) == "a process in another pid namespace"
    world.now += 3000
    leases.renew()
    world.now += 3000
    assert set(leases.held()) == {A}, "renewed while the connection lives"
    leases.disconnected(b"far")
    assert leases.unseen() == []
    leases.renew()
    assert set(leases.held()) == {A}
    world.now += 3000
    assert leases.held() == {}


def test_a_process_that_may_not_be_looked_at_is_held_by_its_connection(world: World, folder: Path):
    leases = world.leases(folder)
    leases.grant(b"hidden", 9, A)
    leases.grant(b"hidden", 9, A)
    assert set(leases.held()) == {A}
    assert leases.unseen() == [b"hidden"]


def test_pids_of_another_namespace_say_nothing_here(world: World, folder: Path):
    folder.mkdir()
    (folder / f"7-100-{namespace() + 1}").write_text(f"{A}\n")
    assert set(world.leases(folder).held()) == {A}, "it may live"
    world.now += 4000
    assert world.leases(folder).held() == {}, "nobody has said so for an hour"


def test_a_line_that_was_cut_short_does_not_spoil_the_next(world: World, folder: Path):
    world.processes = {7: 100}
    folder.mkdir()
    (folder / f"7-100-{namespace()}").write_text(A[:50] + B + "\n" + A[:20])
    assert set(world.leases(folder).held()) == {B}


def test_strange_files_are_left_alone(world: World, folder: Path):
    folder.mkdir()
    (folder / "notes").touch()
    assert world.leases(folder).held() == {}
    assert (folder / "notes").exists()


def test_what_can_not_be_written_holds_here_and_is_written_later(world: World, tmp_path: Path):
    world.processes = {7: 100}
    folder = tmp_path / "leases"
    folder.write_text("in the way")
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    assert leases.failures == 1
    assert set(leases.held()) == {A}
    assert world.leases(folder).held() == {}
    folder.unlink()
    leases.renew()
    assert set(world.leases(folder).held()) == {A}


def test_what_a_cleaner_took_is_written_again(world: World, folder: Path):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    for file in folder.iterdir():
        file.unlink()
    leases.renew()
    assert set(world.leases(folder).held()) == {A}


def test_the_end_of_a_real_process_is_told_once(folder: Path, sleeper: subprocess.Popen[bytes]):
    deaths = Deaths()
    leases = Leases(folder, deaths=deaths)
    try:
        leases.grant(b"one", sleeper.pid, A)
        assert leases.reap() == frozenset()
        assert leases.held()[A].pid == sleeper.pid
        sleeper.kill()
        until(lambda: (ended := leases.reap()) and ended == {A}, what="its end")
        assert leases.reap() == frozenset()
        assert list(folder.iterdir()) == []
    finally:
        deaths.close()


def test_a_process_that_has_ended_before_its_lease_gets_none(folder: Path, sleeper: subprocess.Popen[bytes]):
    sleeper.kill()
    sleeper.wait()
    deaths = Deaths()
    try:
        leases = Leases(folder, deaths=deaths)
        leases.grant(b"one", sleeper.pid, A)
        assert leases.held() == {}
    finally:
        deaths.close()


def test_a_zombie_has_ended_and_a_stopped_process_has_not(sleeper: subprocess.Popen[bytes]):
    start = started(sleeper.pid)
    assert start is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert started(sleeper.pid) == start
    os.kill(sleeper.pid, signal.SIGKILL)
    until(lambda: started(sleeper.pid) is None, what="its end, without a wait for it")


class Trouble:
    """As when this process has no descriptor left."""

    def __call__(self, *_given: object, **_options: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_no_lease_ends_while_it_can_not_be_told_who_lives(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    with monkeypatch.context() as trouble:
        trouble.setattr("builtins.open", Trouble())
        with pytest.raises(OSError, match="open files"):
            started(os.getpid())
    monkeypatch.setattr(leases, "_start_of", Trouble())
    assert leases.renew() == frozenset()
    assert set(leases.held()) == {A}
    leases.grant(b"two", 8, B)
    assert set(leases.held()) == {A, B}, "held by its connection"


@pytest.mark.parametrize("what", ["pathlib.Path.read_text", "os.listdir"])
def test_leases_that_can_not_be_read_are_not_none(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    world.processes = {7: 100}
    world.leases(folder).grant(b"one", 7, A)
    other = world.leases(folder)
    with monkeypatch.context() as trouble:
        trouble.setattr(what, Trouble())
        with pytest.raises(StoreError, match="open files"):
            other.held()
        other.revive()


def test_what_a_cleaner_took_is_held_before_it_is_written_again(world: World, folder: Path):
    world.processes = {7: 100}
    leases = world.leases(folder)
    leases.grant(b"one", 7, A)
    for file in folder.iterdir():
        file.unlink()
    assert set(leases.held()) == {A}
