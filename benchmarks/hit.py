"""Round trip of a cache hit through ``jit()``, beside bare ping-pongs with messages of the same sizes.

    python benchmarks/hit.py [--blocks 20] [--calls 500] [--entries 100000] [--python PYTHON [--pythonpath PATH]]
        [--pin] [--json]

Alternating blocks in one run, so that the machine's mood hits all alike; each ratio is the median of the blocks'
ratios. Goals: p50 at most 1.3x and p99 at most 2x of the bare REQ/ROUTER ping-pong; with ``--python``, an interpreter
that has mlc_llm, p50 at most 0.65x of upstream's own in-process ``jit()``. A daemon of its own, in a temporary home,
with one tiny library compiled by the embedded toolchain, and as many other entries as ``--entries`` says.

Each round trip wakes four threads, and whether the kernel wakes them on one core or on two changes it threefold from
block to block. With ``--pin`` each client has one core and each server another, in all ways alike.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UPSTREAM = """
import json, pathlib, sys, time
import tvm
from mlc_llm.interface import jit as module
def compiled(command, **_):
    pathlib.Path(command[command.index("--output") + 1]).write_bytes(b"x")
module.subprocess.run = compiled  # a hit only asks whether the file is there
model, device = pathlib.Path(sys.argv[1]), tvm.cpu()
call = lambda: module.jit(model, {}, device, skip_log_jit_policy=True)
call()
print("ready", flush=True)
for line in sys.stdin:
    found = []
    for _ in range(int(line)):
        begun = time.perf_counter_ns()
        call()
        found.append((time.perf_counter_ns() - begun) / 1e3)
    print(json.dumps(found), flush=True)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20, help="alternating blocks of each kind")
    parser.add_argument("--calls", type=int, default=500, help="calls in a block")
    parser.add_argument("--entries", type=int, default=0, help="further entries in the cache")
    parser.add_argument("--python", help="an interpreter that has mlc_llm, for upstream's own jit()")
    parser.add_argument("--pythonpath", help="its PYTHONPATH")
    parser.add_argument("--pin", action="store_true", help="clients on one core, servers on another")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with common.ground() as (folder, model):
        report = measure(folder, model, arguments)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import zmq

    from mlc_jit import api
    from mlc_jit import messages as m

    print("compiling a tiny library …", file=sys.stderr)
    path = api.jit(model, {}, "cpu", skip_log_jit_policy=True).model_lib_path
    fill(path, arguments.entries)
    request = api.make_request(model, {}, "cpu", None, policy="ON")
    asked, answered = m.encode(request), m.encode(api.ask(request))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    req = context.socket(zmq.REQ)
    plain = socket.socket(socket.AF_UNIX)

    def ping() -> None:
        req.send(asked)
        req.recv()

    def raw() -> None:
        plain.sendall(asked)
        got = 0
        while got < len(answered):
            got += len(plain.recv(1 << 16))

    def hit() -> None:
        api.jit(model, {}, "cpu", skip_log_jit_policy=True)

    with (
        common.server(common.ROUTER, folder / "echo", len(answered)) as echo,
        common.server(common.UNIX, folder / "raw", len(answered), len(asked)) as plain_echo,
    ):
        req.connect(f"ipc://{folder / 'echo'}")
        plain.connect(str(folder / "raw"))
        servers = {"raw": plain_echo.pid, "ping": echo.pid, "hit": common.daemon()}
        ways: dict[str, Callable[[], None]] = {"raw": raw, "ping": ping, "hit": hit}
        if arguments.pin:
            common.pin(list(servers.values()))
        upstream = Upstream(arguments.python, arguments.pythonpath, folder, model) if arguments.python else None
        blocks, processor = alternate(ways, servers, upstream, arguments)
    req.close(0)
    plain.close()
    context.term()
    return {
        "request_bytes": len(asked),
        "reply_bytes": len(answered),
        "entries": arguments.entries + 1,
        "blocks": arguments.blocks,
        "calls": arguments.calls,
        "us": {
            name: {
                "p50": round(statistics.median(map(common.p50, found)), 1),
                "p99": round(statistics.median(map(common.p99, found)), 1),
                "processor": round(statistics.median(processor[name]), 1) if name in processor else None,
            }
            for name, found in blocks.items()
        },
        "ratios": {
            name: {
                what: round(statistics.median(of(ours) / of(theirs) for theirs, ours in zip(found, blocks["hit"])), 2)  # noqa: B905
                for what, of in (("p50", common.p50), ("p99", common.p99))
            }
            for name, found in blocks.items()
            if name != "hit"
        },
    }


def alternate(
    ways: dict[str, Callable[[], None]],
    servers: dict[str, int],
    upstream: Upstream | None,
    arguments: argparse.Namespace,
) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """For each way its blocks of round trips, and of each block the processor time per call of both sides."""
    blocks: dict[str, list[list[float]]] = {name: [] for name in (*ways, *(["upstream"] if upstream else []))}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        common.timed(way, arguments.calls)
    for _ in range(arguments.blocks):
        for name, way in ways.items():
            before = common.processor_us(os.getpid()) + common.processor_us(servers[name])
            blocks[name].append(common.timed(way, arguments.calls))
            after = common.processor_us(os.getpid()) + common.processor_us(servers[name])
            processor[name].append((after - before) / arguments.calls)
        if upstream is not None:
            blocks["upstream"].append(upstream.block(arguments.calls))
    if upstream is not None:
        upstream.close()
    return blocks, processor


def fill(path: str, entries: int) -> None:
    """Copies of an entry's files under other keys."""
    artifact = common.Path(path)
    key, _, rest = artifact.name.partition("-")
    manifest = artifact.with_name(f"{key}.json").read_text()
    for number in range(entries):
        other = f"{number:064x}"
        artifact.with_name(f"{other}-{rest}").touch()
        artifact.with_name(f"{other}.json").write_text(manifest.replace(key, other))


class Upstream:
    """Upstream's own ``jit()`` in a process of an interpreter that has mlc_llm, one block at a time."""

    def __init__(self, python: str, pythonpath: str | None, folder: Path, model: Path) -> None:
        search = {"PYTHONPATH": pythonpath} if pythonpath else {}
        self.process = subprocess.Popen(
            [python, "-c", UPSTREAM, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **search, "MLC_LLM_HOME": str(folder / "upstream")},
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith(("ready", "[")):
                return line
        raise SystemExit("upstream's jit() did not start")

    def block(self, calls: int) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(self._line())
        return found

    def close(self) -> None:
        self.process.communicate()


NAMES = {
    "raw": "bare Unix socket",
    "ping": "bare REQ/ROUTER",
    "hit": "jit(), a hit",
    "upstream": "upstream's jit(), a hit",
}


def table(report: dict[str, Any]) -> str:
    lines = []
    for name, found in report["us"].items():
        cells = [f"{found['p50']:.0f} us", f"{found['p99']:.0f} us"]
        cells.append("" if not found["processor"] else f"{found['processor']:.0f} us")
        ratio = report["ratios"].get(name)
        cells += ["", ""] if ratio is None else [f"{ratio['p50']}x", f"{ratio['p99']}x"]
        lines.append((NAMES[name], cells))
    title = (
        f"request {report['request_bytes']} bytes, reply {report['reply_bytes']} bytes, {report['entries']} entries; "
        f"medians of {report['blocks']} alternating blocks of {report['calls']} calls"
    )
    return common.rows(title, ["p50", "p99", "processor", "jit() is p50", "p99"], lines)


if __name__ == "__main__":
    sys.exit(main())
