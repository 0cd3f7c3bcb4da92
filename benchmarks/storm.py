"""Many processes at once on one configuration: all hits, and all one miss; and what a single process's start costs.

    python benchmarks/storm.py [--processes 200] [--starts 20] [--json]

- *hits*: processes that each import mlc_jit and ask, started at once; beside it as many that import pyzmq and msgpack
  and do one bare round trip.
- *one miss*: as many processes ask for something that is not there. Goal: one compile, and the last answer within
  100 ms of the first. Told both as the processes get them, which on a few cores is their own scheduling, and as the
  daemon sends them: as many connections of one process that does nothing but wait.
- *start to path*: one process after another, from its start to its path; beside the bare round trip. Goal: 1.2x.
- *idle*: what the daemon uses in 10 s in which nobody asks, and its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

import common

if TYPE_CHECKING:
    from pathlib import Path

BARE = """
import sys, zmq, msgpack
req = zmq.Context().socket(zmq.REQ)
req.connect(f"ipc://{sys.argv[1]}")
req.send(msgpack.packb({"config": b"x" * int(sys.argv[2])}))
req.recv()
"""
OURS = """
import sys
from mlc_jit import jit
jit(sys.argv[1], {}, "cpu")
"""
WAITS = """
import sys, time
from mlc_jit import jit
print("ready", flush=True)
sys.stdin.readline()
jit(sys.argv[1], {}, "cpu")
print(time.monotonic(), flush=True)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--starts", type=int, default=20, help="how often a single process is started, of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with common.ground() as (folder, model):
        report = measure(folder, model, arguments.processes, arguments.starts)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, model: Path, processes: int, starts: int) -> dict[str, Any]:
    from mlc_jit import api
    from mlc_jit import messages as m

    print("compiling a tiny library …", file=sys.stderr)
    api.jit(model, {}, "cpu")
    request = api.make_request(model, {}, "cpu", None, policy="ON")
    asked, answered = len(m.encode(request)), len(m.encode(api.ask(request)))
    pid = common.daemon()
    with common.server(common.ROUTER, folder / "echo", answered):
        bare = [sys.executable, "-c", BARE, str(folder / "echo"), str(asked)]
        ours = [sys.executable, "-c", OURS, str(model)]
        pairs = [(alone(bare), alone(ours)) for _ in range(starts)]
        report: dict[str, Any] = {
            "processes": processes,
            "start_ms": {
                "bare": round(statistics.median(theirs for theirs, _ in pairs) * 1e3, 1),
                "jit": round(statistics.median(mine for _, mine in pairs) * 1e3, 1),
                "ratio": round(statistics.median(mine / theirs for theirs, mine in pairs), 2),
            },
            "hits_s": {"bare": round(together(bare, processes), 2), "jit": round(together(ours, processes), 2)},
        }
    report["miss"] = miss(common.model(folder / "cold", vocab_size=257), processes)
    report["miss_as_sent"] = as_sent(common.model(folder / "colder", vocab_size=258), processes)
    report["idle"] = idle(pid)
    return report


def alone(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begun


def together(command: list[str], count: int) -> float:
    """Seconds until the last of them has ended."""
    begun = time.perf_counter()
    started = [subprocess.Popen(command) for _ in range(count)]
    if any(process.wait() for process in started):
        raise SystemExit("a client failed")
    return time.perf_counter() - begun


def compiles() -> int:
    from mlc_jit import channel
    from mlc_jit import messages as m
    from mlc_jit.locations import locate

    status = next(iter(channel.query(locate().socket, lambda id_: m.StatusRequest(id=id_))))
    assert isinstance(status, m.Status)
    return status.counters.get("compiles", 0)


def miss(model: Path, count: int) -> dict[str, Any]:
    before = compiles()
    command = [sys.executable, "-c", WAITS, str(model)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    begun = time.monotonic()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answered = sorted(float(process.communicate()[0]) for process in started)
    return {
        "compiles": compiles() - before,
        "first_s": round(answered[0] - begun, 2),
        "last_after_first_ms": round((answered[-1] - answered[0]) * 1e3, 1),
    }


def as_sent(model: Path, count: int) -> dict[str, Any]:
    import zmq

    from mlc_jit import api, channel
    from mlc_jit import messages as m
    from mlc_jit.locations import locate

    before = compiles()
    request = m.encode(api.make_request(model, {}, "cpu", None, policy="ON"))
    channels = [channel.Channel(locate().socket) for _ in range(count)]
    poller = zmq.Poller()
    for each in channels:
        poller.register(each.fileno(), zmq.POLLIN)
        each.post(request)
    answered: list[float] = []
    while len(answered) < count:
        poller.poll(100)
        for each in channels:
            while (frame := each.ready()) is not None:
                if isinstance(m.decode(frame, m.REPLIES, strict=False), m.Result):
                    answered.append(time.monotonic())
    for each in channels:
        each.close()
    return {
        "compiles": compiles() - before,
        "last_after_first_ms": round((answered[-1] - answered[0]) * 1e3, 1),
    }


def idle(pid: int, seconds: float = 10.0) -> dict[str, Any]:
    begun = common.processor_us(pid)
    time.sleep(seconds)
    used = common.processor_us(pid) - begun
    memory = psutil.Process(pid).memory_info().rss
    return {"processor_percent": round(used / seconds / 1e4, 3), "memory_mib": round(memory / 2**20, 1)}


def table(report: dict[str, Any]) -> str:
    start, hits, one, sent, rest = (report[name] for name in ("start_ms", "hits_s", "miss", "miss_as_sent", "idle"))
    count = report["processes"]
    lines = [
        ("one process, start to path", [f"{start['bare']} ms", f"{start['jit']} ms", f"{start['ratio']}x"]),
        (f"{count} processes, hits", [f"{hits['bare']} s", f"{hits['jit']} s", f"{hits['jit'] / hits['bare']:.2f}x"]),
    ]
    missed = f"{count} processes, one miss: {one['compiles']} compile, first answer after {one['first_s']} s"
    over = f"{count} connections of one process, one miss: {sent['compiles']} compile"
    return "\n".join(
        [
            common.rows("", ["bare", "jit()", "ratio"], lines),
            f"{missed}, last {one['last_after_first_ms']} ms later",
            f"{over}, last answer {sent['last_after_first_ms']} ms after the first",
            f"idle daemon: {rest['processor_percent']} % of a core, {rest['memory_mib']} MiB",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
