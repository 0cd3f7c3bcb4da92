"""A real Dask scheduler and workers: compiled there once, whoever asks; and what follows when the farm can't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.leftovers import until
from mlc_jit import errors
from mlc_jitd.fleet import farmwork

if TYPE_CHECKING:
    from harness.daemons import Place
    from harness.hosts import Host

pytest.importorskip("distributed", reason="the extra `farm` is not installed")
pytestmark = pytest.mark.timeout(180)  # Dask's processes take seconds to start, more on a busy host


@dataclass
class Farm:
    """A scheduler and its workers."""

    place: Place
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"dask://127.0.0.1:{self.port}"

    def start(self, name: str, *words: str, **variables: str) -> None:
        with (self.place.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.place.root,
                env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", **variables},
            )

    def scheduler(self) -> None:
        place = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-dashboard",
            "--dashboard-address",
            "127.0.0.1:0",
        ]
        self.start("scheduler", "-m", "distributed.cli.dask_scheduler", *place)

    def worker(self, name: str, *words: str) -> None:
        home = self.place.folder(f"{name}-home")
        own = {"MLC_LLM_HOME": str(home), "MLC_JITD_PYTHON": sys.executable}
        self.start(name, "-P", "-m", "mlc_jitd", "worker", self.url, "--jobs", "1", *words, **own)

    def log(self, name: str) -> str:
        return (self.place.root / f"{name}.log").read_text(errors="replace")

    def wait_for(self, *names: str) -> None:
        for name in names:
            until(lambda name=name: "Registered to" in self.log(name), 60, what=f"the worker {name}")

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()


@pytest.fixture
def farm(place, unused_port, double):
    found = Farm(place, unused_port)
    found.scheduler()
    yield found
    for name in list(found.processes):
        found.end(name)


def job(host: Host) -> dict[str, Any]:
    jobs = host.status()["jobs"]
    return jobs[0] if jobs else {}


def test_a_farm_compiles_once_for_two_daemons_and_tells_how_far_it_is(farm, host, double):
    farm.worker("w1")
    farm.worker("w2")
    farm.wait_for("w1", "w2")
    one, two = (host(name, MLC_JITD_EXECUTOR=farm.url, MLC_JITD_JOBS="1") for name in ("one", "two"))
    for each in (one, two):
        each.start()
    model = double.model("shared", {"wait_for": double.gate()})
    first, second = one.ask(model), two.ask(model)
    until(lambda: all("on " in job(each).get("detail", "") for each in (one, two)), 60, what="progress from the worker")
    # Its only place is free: another one goes to the other worker at the same time.
    other = one.ask(double.model("other", context_window_size=96))
    assert Path(other.path(60)).parent == one.library
    assert len(double.starts()) == 2
    double.gate().touch()
    paths = [Path(each.path(60)) for each in (first, second)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [path.parent for path in paths] == [one.library, two.library]
    assert len(double.starts()) == 2
    assert f"{farm.url}, compiled by " in two.manifest()["origin"]
    assert two.manifest()["compile"]["seconds"] > 0
    assert one.status()["counters"]["farm_compiles"] == 2
    error = one.ask(double.model("bad", {"raise": "no such kernel"})).error(60)
    assert error["error"] == "CompileError", "a failure there is the failure of who asked"
    assert "no such kernel" in error["text"]
    assert len(double.starts()) == 3


def test_a_worker_killed_in_mid_compile_is_replaced_by_another(farm, host, double):
    farm.worker("w1")
    farm.wait_for("w1")
    one = host("one", MLC_JITD_EXECUTOR=farm.url)
    one.start()
    model = double.model("shared", {"wait_for": double.gate()})
    asked = one.ask(model)
    until(double.starts, 60)
    farm.worker("w2")
    farm.wait_for("w2")
    farm.end("w1")
    until(lambda: len(double.starts()) == 2, 60, what="the second try")
    double.gate().touch()
    assert asked.path(60)
    assert one.status()["counters"]["farm_compiles"] == 1


def test_a_compiler_killed_on_a_worker_is_no_verdict_on_the_compile(farm, host, double):
    farm.worker("w1")
    farm.wait_for("w1")
    one = host("one", MLC_JITD_EXECUTOR=farm.url)
    one.start()
    asked = one.ask(double.model("shared", {"wait_for": double.gate()}))
    until(double.starts, 60)
    os.kill(double.starts()[0], signal.SIGKILL)
    until(lambda: len(double.starts()) == 2, 60, what="the host's own compile")
    double.gate().touch()
    assert Path(asked.path(60)).parent == one.library
    counters = one.status()["counters"]
    assert (counters["farm_faults"], counters.get("farm_compiles", 0)) == (1, 0)
    assert "a worker could not: " in one.log()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errors.CompileError("no such kernel"), errors.CompileError),
        (errors.CompileTimedOutError("took too long"), errors.CompileTimedOutError),
        (errors.OverrideInvalidError("no such override"), errors.OverrideInvalidError),
        (errors.CompileOutOfMemoryError("too much"), farmwork.WorkerFaultError),
        (errors.CompileKilledError("signal 9"), farmwork.WorkerFaultError),
        (errors.StoreFullError("no room"), farmwork.WorkerFaultError),
        (errors.JitError("internal"), farmwork.WorkerFaultError),
    ],
)
def test_what_a_compiler_said_stands_and_a_workers_own_trouble_does_not(error, raised):
    with pytest.raises(raised, match=error.message):
        farmwork.made_of(farmwork.failure_of(error))


@pytest.mark.parametrize(
    "reply", [None, {}, {"error": b"\xc1"}, {"error": 7}, {"library": b"x", "sha256": "0" * 64}, {"library": b""}]
)
def test_an_answer_that_is_none_is_refused(reply):
    with pytest.raises(farmwork.FarmReplyError):
        farmwork.made_of(reply)


def test_a_gpu_architecture_is_a_resource_given_by_hand(farm, double):
    """No GPU is needed to see where Dask puts such a task."""
    from distributed import Client

    farm.worker("w1")
    farm.worker("w2", "--offer", "cuda-sm_90=1")
    farm.wait_for("w1", "w2")
    target = SimpleNamespace(name="target", value={"facts": {"visible": ["sm_90"]}})
    identity: Any = SimpleNamespace(toolchain=SimpleNamespace(fingerprint="f" * 64), parts=[target])
    wanted = farmwork.wants(identity)
    assert wanted[farmwork.architecture("sm_90")] == 1
    with Client(f"tcp://127.0.0.1:{farm.port}") as scheduler:
        offered = [each["resources"] for each in scheduler.scheduler_info(n_workers=-1)["workers"].values()]
        builds = next(name for name in offered[0] if name.startswith("toolchain-"))
        wanted = {name: amount for name, amount in wanted.items() if not name.startswith("toolchain-")} | {builds: 1}
        assert farmwork.lacking(wanted, offered) == ""
        assert "cuda-sm_100" in farmwork.lacking(wanted | {"cuda-sm_100": 1}, offered)
        ran = [scheduler.submit(os.getppid, resources=wanted, pure=False).result(60) for _ in range(3)]
    assert set(ran) == {farm.processes["w2"].pid}, "w2, which keeps its worker as a child"


def test_what_is_no_resource_is_said():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mlc_jitd", "worker", "dask://127.0.0.1:1", "--offer", "cuda-sm_90"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cuda-sm_90=1" in done.stderr


def test_without_a_farm_the_host_compiles_or_says_so(farm, host, double):
    """No worker, then no scheduler; and where that shall be an error."""
    one, strict = host("one", MLC_JITD_EXECUTOR=farm.url), host("strict", MLC_JITD_EXECUTOR=farm.url)
    strict.variables["MLC_JITD_EXECUTOR_FALLBACK"] = "fail"
    one.constants = {"mlc_jitd.fleet.farm.CONNECT_SECONDS": 3.0}
    for each in (one, strict):
        each.start()
    assert one.ask(double.model("a", context_window_size=96)).path(60)
    error = strict.ask(double.model("b", context_window_size=97)).error(60)
    assert "it has no workers" in error["text"]
    assert "executor_fallback" in error["text"]
    farm.end("scheduler")
    assert one.ask(double.model("c", context_window_size=98)).path(90)
    assert one.status()["counters"]["farm_faults"] >= 2
    assert len(double.starts()) == 2


def test_a_scheduler_lost_in_mid_compile_is_not_waited_for(farm, host, double):
    farm.worker("w1")
    farm.wait_for("w1")
    one = host("one", MLC_JITD_EXECUTOR=farm.url)
    one.start()
    asked = one.ask(double.model("shared", {"wait_for": double.gate()}))
    until(double.starts, 60)
    began = time.monotonic()
    farm.end("scheduler")
    until(lambda: len(double.starts()) == 2, 90, what="a compile of its own")
    assert time.monotonic() - began < 90
    double.gate().touch()
    assert asked.path(60)
