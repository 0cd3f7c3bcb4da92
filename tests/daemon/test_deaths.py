"""A client's death is heard from the kernel, at once, and from nothing else where the kernel can't tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import status, until, waiters
from mlc_jitd import deaths as module
from mlc_jitd.deaths import Deaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Clients, Daemon
    from harness.doubles import Double

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd here")


@pytest.fixture
def deaths() -> Iterator[Deaths]:
    found = Deaths()
    yield found
    found.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_an_end_is_told_once_for_each_connection(deaths: Deaths, sleeper: subprocess.Popen[bytes]) -> None:
    assert deaths.watch(b"a", sleeper.pid)
    assert deaths.watch(b"a", sleeper.pid)
    assert deaths.watch(b"b", sleeper.pid)
    assert deaths.watch(b"me", os.getpid())
    assert deaths.ended() == []
    sleeper.kill()
    sleeper.wait()
    assert sorted(deaths.ended()) == [b"a", b"b"]
    assert deaths.ended() == []


def test_a_zombie_has_ended(deaths: Deaths, sleeper: subprocess.Popen[bytes]) -> None:
    deaths.watch(b"a", sleeper.pid)
    sleeper.kill()
    found: list[bytes] = []
    until(lambda: found.extend(deaths.ended()) or found)
    assert found == [b"a"]


def test_who_was_answered_is_no_longer_watched(deaths: Deaths, sleeper: subprocess.Popen[bytes]) -> None:
    before = psutil.Process().num_fds()
    deaths.watch(b"a", sleeper.pid)
    deaths.forget(b"a")
    deaths.forget(b"a")
    assert psutil.Process().num_fds() == before
    sleeper.kill()
    sleeper.wait()
    assert deaths.ended() == []


def test_a_process_that_is_no_more_is_told_at_once(deaths: Deaths, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert not deaths.watch(b"a", sleeper.pid)
    assert deaths.ended() == []


def test_a_peer_without_a_pid_is_left_to_heartbeats(deaths: Deaths) -> None:
    assert deaths.watch(b"a", 0)
    assert deaths.ended() == []


def test_without_a_descriptor_to_spare_heartbeats_tell(deaths: Deaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.os, "pidfd_open", refuse)
    assert deaths.watch(b"a", os.getpid())
    assert deaths.ended() == []


def test_elsewhere_than_on_linux_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    deaths = Deaths()
    assert deaths.fileno() == -1
    assert deaths.watch(b"a", os.getpid())
    assert deaths.ended() == []
    deaths.close()


def test_a_killed_client_leaves_the_queue_before_a_heartbeat_could_tell(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    gate = double.gate()
    first = client.ask(double.model("running", told={"wait_for": gate}))
    until(double.starts)
    took = []
    for number in range(4):  # one may fall together with a heartbeat, not all of them
        queued = client.ask(double.model(f"m{number}"))
        until(lambda: waiters() == 2)
        queued.kill()
        began = time.monotonic()
        until(lambda: len(status().jobs) == 1, what="the queued job being dropped")
        took.append(time.monotonic() - began)
    assert sum(took) / len(took) < 0.5, took
    gate.touch()
    first.path()
    assert len(double.starts()) == 1
    assert status().counters["lost_waiters"] == 4
