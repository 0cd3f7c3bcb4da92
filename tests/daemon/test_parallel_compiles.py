"""Several compiles at once, through a real daemon: no more than may, everybody in turn, nobody in the dark."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.configs import LLAMA
from harness.daemons import status, until, waiters
from mlc_jit import api, channel
from mlc_jit import messages as m
from mlc_jit.errors import BusyError
from mlc_jit.locations import locate
from mlc_jitd.gauge import FRESH_SECONDS
from mlc_jitd.schedule import capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

LISTEN = """
from mlc_jit import api
heard = []
ask = api.make_request(given["model"], {}, "cpu", None, policy="ON", prewarm=given.get("prewarm", False))
api.ask(ask, on_progress=lambda p: heard.append([p.stage, p.detail]))
print(json.dumps(heard))
"""

FLOOD = """
def one(model):
    answer(lambda: jit(model, {}, "cpu"))
threads = [threading.Thread(target=one, args=(model,)) for model in given["models"]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(len(threads)))
"""


def models(double: Double, count: int, **told: Any) -> list[Path]:
    """Model folders of as many configurations; ``{n}`` in text that is told becomes their number."""
    made = []
    for n in range(count):
        each = {name: str(value).format(n=n) if name == "wait_for" else value for name, value in told.items()}
        made.append(double.model(f"m{n}", told=each, vocab_size=1000 + n))
    return made


def teach(double: Double, client: Clients) -> None:
    """One compile, so that the need of its like is known: of those of unknown need, one runs at a time."""
    assert client.ask(double.model("first", vocab_size=999)).path()


def jobs(state: str) -> dict[str, m.JobReport]:
    """The daemon's jobs in a state, by the name of their model."""
    return {Path(job.model).name: job for job in status().jobs if job.state == state}


def most_at_once(double: Double) -> int:
    """How many compiles ever ran at the same time, by the compiler's own log."""
    running, most = 0, 0
    for _, event in double.module.events(double.log):
        running += {"start": 1, "done": -1}.get(event, 0)
        most = max(most, running)
    return most


def test_six_configurations_at_once_run_two_at_a_time(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="2", MLC_JITD_CORES_PER_JOB="1")
    teach(double, client)
    fleet = client.fleet(models(double, 6, wait_for=double.folder / "gate{n}"))
    until(lambda: waiters() == 6)
    for left in range(6, 0, -1):
        until(lambda left=left: (len(jobs("running")), len(jobs("queued"))) == (min(2, left), max(0, left - 2)))
        until(lambda left=left: len(double.starts()) == 7 - max(0, left - 2))
        (double.folder / f"gate{min(jobs('running'))[1:]}").touch()
    paths = fleet.paths()
    assert len(set(paths)) == 6
    assert all(Path(path).is_file() for path in paths)
    assert most_at_once(double) == 2
    assert status().counters["compiles"] == 7


def test_who_asks_for_one_is_not_behind_all_of_who_asks_for_twenty(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    teach(double, client)
    gate, last = double.gate(), double.gate("last")
    held = client.ask(double.model("held", told={"wait_for": gate}))
    until(lambda: "held" in jobs("running"))
    flood = client.code(FLOOD, models=models(double, 20))
    until(lambda: waiters() == 21)
    one = client.ask(double.model("one", told={"wait_for": last}))
    until(lambda: waiters() == 22)
    gate.touch()
    until(lambda: "one" in jobs("running"))
    assert len(jobs("queued")) >= 17, "they take turns"
    flood.kill()
    last.touch()
    assert held.path()
    assert one.path()
    until(lambda: not status().jobs)


def scheduler(double: Double) -> int:
    """How the kernel treats the compile that was started last."""
    return os.sched_getscheduler(double.starts()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a compile steps back by other means")
def test_interactive_overtakes_prewarm_and_lifts_what_it_joins(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    teach(double, client)
    held, early, late, lifted, urgent = models(double, 5, wait_for=double.folder / "gate{n}")
    asked = [client.ask(held)]
    until(lambda: "m0" in jobs("running"))
    for prewarmed in (early, late, lifted):
        asked.append(client.code(LISTEN, model=prewarmed, prewarm=True))
        until(lambda: waiters() == len(asked))
    for wanted in (urgent, lifted):
        asked.append(client.ask(wanted))
        until(lambda: waiters() == len(asked))
    ran = {}
    for count in range(1, 6):
        until(lambda count=count: len(double.starts()) == 1 + count)
        (name,) = jobs("running")
        ran[name] = scheduler(double)
        double.gate(f"gate{name[1:]}").touch()
    for each in asked:
        each.answer()
    order = list(ran)
    assert order[0] == "m0"
    assert set(order[1:3]) == {"m3", "m4"}, "whoever is waited for"
    assert order[3:] == ["m1", "m2"], "then the others, in the order in which they came"
    assert {name for name in ran if ran[name] == os.SCHED_IDLE} == {"m1", "m2"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a compile steps back by other means")
def test_a_prewarm_that_runs_keeps_nobody_waiting_and_is_lifted_by_who_joins_it(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    teach(double, client)
    gate = double.gate()
    (prewarmed,) = models(double, 1, wait_for=gate)
    asked = client.code(LISTEN, model=prewarmed, prewarm=True)
    until(lambda: len(double.starts()) == 2)
    pid = double.starts()[-1]
    until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
    assert client.ask(double.model("urgent", vocab_size=1500)).path(), "beside it, on one slot"
    joined = client.ask(prewarmed)
    until(lambda: waiters() == 2)
    if os.getuid() == 0:  # others may not leave the class; their groups and sessions are lifted
        until(lambda: os.sched_getscheduler(pid) == os.SCHED_BATCH)
    gate.touch()
    assert joined.path()
    asked.answer()


def test_a_full_queue_says_so(start_daemon: Callable[..., Daemon], double: Double, client: Clients) -> None:
    """Of two places that may wait, one user gets one."""
    start_daemon(MLC_JITD_JOBS="1", MLC_JITD_MAX_QUEUED="2")
    gate = double.gate()
    held, waits, third = models(double, 3, wait_for=gate)
    first = client.ask(held)
    until(double.starts)
    second = client.ask(waits)
    until(lambda: waiters() == 2)
    with pytest.raises(BusyError, match="1 jobs of this user wait or run already, 1 may") as told:
        ask(third)
    assert told.value.reason == "user-full"
    assert told.value.remedy
    gate.touch()
    assert first.path()
    assert second.path()
    assert ask(third).path, "room again"
    assert len(double.starts()) == 3


def ask(model: Path) -> m.Result:
    """What the daemon itself answers; ``jit()`` goes on without it where it can't or won't."""
    request = api.make_request(model, {}, "cpu", None, policy="ON")
    for reply in channel.query(locate().socket, lambda id_: dataclasses.replace(request, id=id_)):
        if isinstance(reply, m.Result):
            return reply
    raise AssertionError


def test_who_waits_hears_its_place_as_it_moves_up(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    teach(double, client)
    asked = []
    for count, model in enumerate(models(double, 4, wait_for=double.folder / "gate{n}"), 1):
        asked.append(client.code(LISTEN, model=model))
        until(lambda count=count: waiters() == count)
    for n in range(4):
        until(lambda n=n: f"m{n}" in jobs("running"))
        double.gate(f"gate{n}").touch()
    for n, each in enumerate(asked):
        heard = [detail for stage, detail in each.answer() if stage == "queued"]
        places = [int(found[1]) for detail in heard if (found := re.match(r"position (\d+)", detail))]
        assert len(places) == len(heard)
        assert list(dict.fromkeys(places)) == list(range(n, 0, -1)), "none was left out, none came twice"


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 1.75 GiB for a whole daemon, of which compiles may use three quarters."""
    group = Path(f"/sys/fs/cgroup/memory/mlc-jitd-test-{os.getpid()}-parallel")
    limit = "memory.limit_in_bytes"
    if not group.parent.joinpath("cgroup.procs").exists():
        group, limit = Path("/sys/fs/cgroup") / group.name, "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(1792 << 20))
    except OSError:
        if group.exists():
            group.rmdir()
        pytest.skip("no control group to be had")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.timeout(60)  # 5 s; it touches gigabytes
def test_what_takes_more_memory_than_the_host_may_give_is_tried_once_more_alone_and_then_reported(
    small_group: Path, start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    started = start_daemon(MLC_JITD_JOBS="2", MLC_JITD_CORES_PER_JOB="1", MLC_JITD_WARM="off")
    (small_group / "cgroup.procs").write_text(str(started.pid))
    moved = status().uptime
    until(lambda: status().uptime > moved + FRESH_SECONDS, what="what it knows of the host is too old to be used")
    gate = double.gate()
    teach(double, client)
    beside = client.ask(double.model("beside", told={"wait_for": gate}))
    until(lambda: len(double.starts()) == 2)
    hungry = client.code(
        "from mlc_jit import api\nheard = []\n"
        'ask = api.make_request(given["model"], {}, "cpu", None, policy="ON")\n'
        "said = answer(lambda: api.ask(ask, on_progress=lambda p: heard.append(p.detail)).path)\n"
        "print(json.dumps([said, heard]))",
        model=double.model("hungry", told={"memory": 1450, "hang": True}),
    )
    until(lambda: "hungry" in jobs("queued"), 30, what="its second try waits to be alone")
    assert "beside" in jobs("running")
    assert len(double.starts()) == 3
    gate.touch()
    assert beside.path()
    said, heard = hungry.answer(40)
    assert said["error"] == "CompileOutOfMemoryError"
    assert said["reason"] == "out-of-memory"
    assert "the limit is" in said["text"]
    assert len(double.starts()) == 4, "once more, and no more"
    assert "ran out of memory: once more, alone" in heard
    assert any("waits to be alone" in detail for detail in heard)
    until(lambda: not status().jobs)


def held(pid: int) -> int:
    """Bytes that the processes below one hold together, shared pages counted once."""
    total = 0
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


@pytest.mark.tvm
@pytest.mark.timeout(240)  # 25 s on two idle cores
@pytest.mark.skipif(sys.platform != "linux", reason="what processes share is told by Linux only")
def test_six_real_configurations_on_two_slots_stay_within_their_memory(
    start_daemon: Callable[..., Daemon], place: Place, client: Clients
) -> None:
    pytest.importorskip("tvm")
    budget = capacity.read().memory_available
    started = start_daemon(MLC_JITD_JOBS="2", MLC_JITD_CORES_PER_JOB="1")
    folders = []
    for n in range(7):
        folder = place.folder(f"llama{n}")
        (folder / "mlc-chat-config.json").write_text(json.dumps({**LLAMA, "vocab_size": 64 + n}))
        folders.append(folder)
    assert client.ask(folders[0]).path(100), "the need of its like is known from here on"
    fleet = client.fleet(folders[1:])
    seen: Counter[int] = Counter()
    most = 0

    def over() -> bool:
        nonlocal most
        time.sleep(0.3)  # a look takes processor time from what it looks at
        seen[len(jobs("running"))] += 1
        most = max(most, held(started.pid))
        return status().counters["compiles"] == 7

    until(over, 150)
    assert len(set(fleet.paths(60))) == 6
    assert max(seen) == 2
    manifests = [json.loads(path.read_bytes()) for path in place.manifests()]
    assert [manifest["compile"]["cores"] for manifest in manifests] == [1] * 7
    worst = max(manifest["compile"]["peak_memory"] for manifest in manifests)
    assert 0 < most <= 2 * worst + WORKER, "two compiles and their warm compiler"
    assert most < budget


WORKER = 350 << 20
"""Bytes of an imported TVM and of the supervisors; 190 MiB were seen."""
