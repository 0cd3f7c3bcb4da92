"""Risk: kill -9 of anybody while a warm compiler works. The right outcome, and nothing that outlives it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import alive, status, until
from harness.leftovers import below
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no warm compilers")


class Family:
    """Who is who above one running job: ``daemon - keeper - worker - supervisor - job``."""

    def __init__(self, job: int) -> None:
        self.job = psutil.Process(job)
        self.supervisor, self.worker, self.keeper, self.daemon = self.job.parents()[:4]

    def pids(self) -> list[int]:
        return [each.pid for each in (self.job, self.supervisor, self.worker, self.keeper)]


@pytest.fixture
def gate(double: Double) -> Path:
    return double.gate()


@pytest.fixture
def gated(double: Double, gate: Path) -> Path:
    """A model whose compile has children, one of them hidden, and goes on once the gate is there."""
    return double.model(told={"setsid": 1, "children": 1, "wait_for": gate})


@pytest.fixture
def started(
    start_daemon: Callable[..., Daemon], double: Double, gated: Path, client: Clients
) -> tuple[Family, Clients]:
    """A daemon that runs the model's compile in a warm compiler that has served before."""
    daemon = start_daemon(MLC_JITD_BACKOFF_SECONDS="0")
    jit(double.model("before"), {}, "cpu")
    asking = client.ask(gated)
    until(lambda: len(double.starts()) == 2 and len(double.children()) == 2)
    family = Family(double.starts()[1])
    assert family.daemon.pid == daemon.pid
    assert "warm.py" in " ".join(family.worker.cmdline())
    return family, asking


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def gone(*pids: int) -> None:
    until(lambda: not any(alive(pid) for pid in pids), what="the end of all")


def test_the_job(started: tuple[Family, Clients], double: Double, gate: Path, gated: Path) -> None:
    family, asking = started
    kill(family.job)
    error = asking.error()
    assert (error["error"], error["reason"]) == ("CompileKilledError", "signal-9")
    gone(family.job.pid, *double.children())
    assert family.worker.is_running()
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()
    assert len(double.starts()) == 3


def test_the_jobs_supervisor(started: tuple[Family, Clients], double: Double, gate: Path, gated: Path) -> None:
    family, asking = started
    kill(family.supervisor)
    error = asking.error()
    assert (error["error"], error["reason"]) == ("CompileKilledError", "lost")
    gone(family.supervisor.pid, family.job.pid, *double.children())
    assert family.worker.is_running()
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()


def test_the_worker(started: tuple[Family, Clients], double: Double, gate: Path, place: Place) -> None:
    """The compile did nothing wrong: it is begun again, and its client hears nothing of that."""
    family, asking = started
    children = double.children()
    kill(family.worker)
    until(lambda: len(double.starts()) == 3, what="the second try")
    gone(*family.pids(), *children)
    gate.touch()
    assert Path(asking.path()).is_file()
    assert len(place.manifests()) == 1 + 1  # with the one before
    jit(double.model("after", vocab_size=7), {}, "cpu")  # by a fresh worker
    assert len(double.starts()) == 4
    counted = status().counters
    assert (counted["warm_compiles"], counted["plain_compiles"], counted["warm_again"]) == (2, 1, 1)
    assert (counted["warm_started"], counted["warm_crashed"], counted["warm_workers"]) == (2, 1, 1)


def test_the_keeper(started: tuple[Family, Clients], double: Double, gate: Path, gated: Path) -> None:
    """As with a plain compile: whose supervisor is killed, was killed."""
    family, asking = started
    kill(family.keeper)
    error = asking.error()
    assert (error["error"], error["reason"]) == ("CompileKilledError", "lost")
    gone(*family.pids(), *double.children())
    gate.touch()
    assert Path(jit(gated, {}, "cpu").model_lib_path).is_file()


def test_the_daemon(started: tuple[Family, Clients], double: Double, gate: Path, place: Place) -> None:
    family, asking = started
    children = double.children()
    kill(family.daemon)
    gone(*family.pids(), *children)
    gate.touch()
    assert Path(asking.path()).is_file()
    assert status().pid != family.daemon.pid


def test_the_daemon_while_a_compiler_is_imported(daemon: Daemon, double: Double, client: Clients, place: Place) -> None:
    package = double.install() / "mlc_llm" / "cli" / "compile.py"
    slow = "\nif sys.argv[0].endswith('warm.py'):\n    time.sleep(1000)\n"
    package.write_text(package.read_text() + slow)
    asking = client.ask(double.model(), PYTHONPATH=str(double.packages))

    def worker() -> list[psutil.Process]:
        return below(daemon.pid, "warm.py")

    until(worker)
    (importing,) = worker()
    asking.kill()
    daemon.kill()
    gone(importing.pid)
    place.stale_sockets = True


def test_all_of_it_at_the_same_moment(started: tuple[Family, Clients], double: Double, gate: Path) -> None:
    family, asking = started
    children = double.children()
    for each in (family.daemon, family.keeper, family.worker, family.supervisor):
        kill(each)
    gone(*family.pids(), *children)  # the children: by the daemon that the client starts
    gate.touch()
    assert Path(asking.path()).is_file()


def test_draining_ends_idle_workers(daemon: Daemon, double: Double) -> None:
    jit(double.model(), {}, "cpu")
    family = below(daemon.pid)
    assert below(daemon.pid, "warm.py")
    assert daemon.stop() == 0
    gone(*(each.pid for each in family))
