"""Hits per second with 1, 4, 16 and 64 clients at once, beside the same clients on a bare ROUTER.

    python benchmarks/throughput.py [--clients 1,4,16,64] [--seconds 1] [--blocks 10] [--json]

Each client is a process that asks again as soon as it is answered. Alternating blocks in one run; ratios are medians of
the blocks'. Goal: with 4 clients at least 0.8x of the bare ROUTER's requests per second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from pathlib import Path

BARE = """
import sys, time, zmq
req = zmq.Context().socket(zmq.REQ)
req.connect(f"ipc://{sys.argv[1]}")
asked = b"x" * int(sys.argv[2])
def call():
    req.send(asked)
    req.recv()
"""
OURS = """
import sys, time
from mlc_jit import jit
def call():
    jit(sys.argv[1], {}, "cpu", skip_log_jit_policy=True)
"""
LOOP = """
for _ in range(20):
    call()
print("ready", flush=True)
for line in sys.stdin:
    end = time.perf_counter() + float(line)
    count = 0
    while time.perf_counter() < end:
        call()
        count += 1
    print(count, flush=True)
"""


class Crowd:
    """Clients of one kind."""

    def __init__(self, code: str, count: int, *words: str | Path | int) -> None:
        command = [sys.executable, "-c", code + LOOP, *map(str, words)]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        self._lines()

    def _lines(self) -> list[str]:
        return [process.stdout.readline() for process in self.processes if process.stdout is not None]

    def block(self, seconds: float) -> float:
        """Calls per second of all together."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        return sum(map(int, self._lines())) / seconds

    def close(self) -> None:
        for process in self.processes:
            process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,4,16,64", help="how many at once, one after another")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a block")
    parser.add_argument("--blocks", type=int, default=10, help="alternating blocks of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = []
    with common.ground() as (folder, model):
        asked, answered = sizes(model)
        with common.server(common.ROUTER, folder / "echo", answered):
            for count in map(int, arguments.clients.split(",")):
                bare = Crowd(BARE, count, folder / "echo", asked)
                ours = Crowd(OURS, count, model)
                pairs = [
                    (bare.block(arguments.seconds), ours.block(arguments.seconds)) for _ in range(arguments.blocks)
                ]
                bare.close()
                ours.close()
                report.append(
                    {
                        "clients": count,
                        "bare": round(statistics.median(theirs for theirs, _ in pairs)),
                        "hits": round(statistics.median(hits for _, hits in pairs)),
                        "ratio": round(statistics.median(hits / theirs for theirs, hits in pairs), 2),
                    }
                )
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def sizes(model: Path) -> tuple[int, int]:
    """Bytes of a request and its reply; there is a library afterwards."""
    from mlc_jit import api
    from mlc_jit import messages as m

    print("compiling a tiny library …", file=sys.stderr)
    api.jit(model, {}, "cpu", skip_log_jit_policy=True)
    request = api.make_request(model, {}, "cpu", None, policy="ON")
    return len(m.encode(request)), len(m.encode(api.ask(request)))


def table(report: list[dict[str, Any]]) -> str:
    lines = [
        (f"{row['clients']} clients", [f"{row['bare']:,}", f"{row['hits']:,}", f"{row['ratio']}x"]) for row in report
    ]
    return common.rows("requests per second", ["bare ROUTER", "hits", "ratio"], lines)


if __name__ == "__main__":
    sys.exit(main())
