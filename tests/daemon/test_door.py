"""The lock and the socket: waited for, adopted from a service manager, left behind for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import command, status, until, waiters
from mlc_jit import channel as wire
from mlc_jit import conversation, jit
from mlc_jit import messages as m
from mlc_jit.errors import DaemonUnavailableError
from mlc_jit.locations import locate
from mlc_jit.reach import served
from mlc_jitd import activation, notify
from mlc_jitd.door import Door
from mlc_jitd.service import Service, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.daemons import Clients, Place
    from harness.doubles import Double


@pytest.fixture
def listener(place: Place) -> Iterator[socket.socket]:
    """What a service manager listens on."""
    place.stale_sockets = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as found:
        found.bind(os.fspath(locate().socket))
        found.listen()
        yield found


@pytest.fixture
def door() -> Iterator[Door]:
    found = Door(locate())
    yield found
    found.retire()


def test_an_adopted_socket_stays_when_the_daemon_leaves(door: Door, listener: socket.socket) -> None:
    door.lock()
    mine = door.adopt(listener.dup())
    assert mine.getsockname() == os.fspath(door.places.socket)
    assert door.still_ours()
    door.retire()
    mine.close()
    assert door.places.socket.exists()


def test_a_socket_at_another_path_is_refused_with_the_remedy(door: Door, place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(os.fspath(place.root / "other.sock"))
        other.listen()
        door.lock()
        with pytest.raises(DaemonUnavailableError, match="mlc-jit service install"):
            door.adopt(other)


@pytest.mark.parametrize("how", ["removed", "replaced by a dead one"])
def test_a_socket_that_nobody_can_reach_is_replaced(how: str, door: Door, listener: socket.socket) -> None:
    path = door.places.socket
    path.unlink()
    if how != "removed":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(os.fspath(path))
    door.lock()
    with door.adopt(listener.dup()), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(os.fspath(path))
    door.retire()
    assert not path.exists(), "it was the daemon's own"


def test_the_lock_of_one_that_leaves_is_waited_for(door: Door) -> None:
    first = Door(locate())
    first.lock()
    told = threading.Event()
    leaving = threading.Thread(target=lambda: (told.wait(10), first.retire()))
    leaving.start()
    door.lock(patience=15.0, waiting=told.set)
    leaving.join()
    with pytest.raises(DaemonUnavailableError, match=f"pid {os.getpid()}"):
        Door(locate()).lock()


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="mlc-jitd.socket")
os.execv(sys.executable, [sys.executable, "-P", "-m", "mlc_jitd", "run", "--on-demand"])
"""


def test_a_daemon_is_activated_through_a_passed_socket(
    double: Double, place: Place, listener: socket.socket, ended: None
) -> None:
    """As systemd passes it; no manager takes part."""
    assert command("status").returncode == 3, "somebody listens, and no daemon holds the lock"
    with (place.root / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno())],
            pass_fds=(listener.fileno(),), stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
    path = jit(double.model(), {}, "cpu").model_lib_path  # waits in the socket's queue
    assert Path(path).is_file()
    assert status().pid == process.pid
    process.terminate()
    assert process.wait(40) == 0
    assert locate().socket.exists()
    assert command("status").returncode == 3


def leaving() -> m.Status:
    """What a daemon says that holds no lock any more."""
    channel = wire.Channel(locate().socket)
    try:
        channel.send(m.StatusRequest(id=1))
        reply = next(channel.replies(1))
    finally:
        channel.close()
    assert isinstance(reply, m.Status)
    return reply


def test_who_asks_a_daemon_that_drains_behind_a_passed_socket_waits_for_the_next(
    double: Double, place: Place, listener: socket.socket, client: Clients, ended: None
) -> None:
    """As when a service is restarted over a running compile: nobody compiles unadmitted meanwhile."""
    gate, later = double.gate("first"), double.gate("later")

    environment = {**os.environ, "MLC_JITD_JOBS": "1"}

    def activated() -> subprocess.Popen[bytes]:
        with (place.root / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno())],
                pass_fds=(listener.fileno(),), stdout=log, stderr=log, cwd="/", env=environment,
            )  # fmt: skip

    process = activated()
    running = client.ask(double.model("running", told={"wait_for": gate}))
    until(double.starts)
    process.terminate()
    until(lambda: leaving().draining)
    others = [client.ask(double.model(f"m{n}", told={"wait_for": later}, vocab_size=900 + n)) for n in range(3)]
    until(lambda: leaving().counters.get("refusals", 0) >= 3 * (conversation.TRIES + 1))
    assert len(double.starts()) == 1
    gate.touch()
    assert Path(running.path()).is_file()
    assert process.wait(40) == 0
    process = activated()
    until(lambda: served(locate().socket))
    until(lambda: waiters() == 3)
    until(lambda: len(double.starts()) == 2)
    assert sorted(job.state for job in status().jobs) == ["queued", "queued", "running"]
    later.touch()
    assert len({each.path() for each in others}) == 3
    process.terminate()
    assert process.wait(40) == 0


def test_nothing_is_taken_that_was_meant_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, count in (("1", "1"), (str(os.getpid()), "none"), (str(os.getpid()), "0")):
        monkeypatch.setenv("LISTEN_PID", pid)
        monkeypatch.setenv("LISTEN_FDS", count)
        assert activation.take() is None
        assert "LISTEN_FDS" not in os.environ, "compilers are not to think that it was meant for them"


# --- what the manager is told ---------------------------------------------------------------------------------------


class Loop:
    pulse = 0.0

    def load(self) -> tuple[int, int]:
        return 1, 2


def test_the_watchdog_hears_nothing_while_the_engine_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    service = Service(Path("/home"), send=said.append, environ={"WATCHDOG_USEC": "10000000"})
    loop = Loop()
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    loop.pulse = 99.0
    service.tick(loop)
    assert said == ["WATCHDOG=1\nSTATUS=serving /home: 1 running, 2 queued"]
    loop.pulse = 94.0
    service.tick(loop)
    assert len(said) == 1
    loop.pulse = 100.0
    service.tick(loop)
    assert said[1:] == ["WATCHDOG=1"]


def test_a_drain_has_its_time_extended_while_the_engine_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    service = Service(Path("/home"), send=said.append, environ={})
    loop = Loop()
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    loop.pulse = 100.0
    service.ready()
    service.tick(loop)
    service.stopping()
    service.tick(loop)
    loop.pulse = 0.0
    service.tick(loop)
    assert said == [
        "READY=1\nSTATUS=serving /home",
        "STATUS=serving /home: 1 running, 2 queued",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000\nSTATUS=draining",
        "EXTEND_TIMEOUT_USEC=20000000\nSTATUS=draining: 1 running, 2 queued",
    ]


def test_a_watchdog_is_for_the_process_that_it_names() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}) == 3.0
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) == 0.0
    assert watchdog_seconds({"WATCHDOG_USEC": "x"}) == watchdog_seconds({}) == 0.0


def test_words_reach_a_manager_and_nobody_is_no_trouble(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notify.send("READY=1")
    path = place.root / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    assert not notify.send("READY=1"), "nobody listens"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        assert notify.send("READY=1")
        assert manager.recv(100) == b"READY=1"
    path.unlink()
    until(lambda: not path.exists())
