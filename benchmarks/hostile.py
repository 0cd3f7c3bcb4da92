"""Hits of one user while another one floods a daemon of many users, beside the same flood at an unrelated ROUTER.

    sudo python benchmarks/hostile.py [--blocks 7] [--calls 300] [--kinds malformed,status] [--pin] [--json]

A flood is a process of another uid that sends as fast as it can. The flood elsewhere is the fair comparison: it takes
as much of the machine, and the daemon hears nothing of it. Goal: a ratio of at most 1.5 at the median, whatever is
sent. Needs root, to be two users. With ``--pin`` both servers have one core, and who asks and who floods another: where
the kernel wakes them changes a round trip threefold from block to block.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from common import ROUTER, model, p50, p99, pin, rows, server, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = 54322
GOAL = 1.5
DOUBLE = Path(__file__).parents[1] / "tests" / "double" / "packages"
"""What is in the library does not matter here: the compiler's double makes it."""

KINDS = ("malformed", "invalid", "oversize", "status", "connects", "silent")

FLOOD = """
import os, socket, sys, time, zmq, msgpack
path, kind, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
print("ready", flush=True)
def connections(number, say=b""):
    found = []
    for _ in range(number):
        each = socket.socket(socket.AF_UNIX)
        try:
            each.connect(path)
            each.sendall(say)
            found.append(each)
        except OSError:
            each.close()
            time.sleep(0.01)
    return found
if kind == "silent":
    held = connections(300) + connections(300, b"\\xff\\0\\0\\0")
    while True:
        time.sleep(1)
if kind == "connects":
    while True:
        for each in connections(50, b"\\xff" + b"\\0" * 8 + b"\\x7f"):
            each.close()
dealer = zmq.Context().socket(zmq.DEALER)
dealer.setsockopt(zmq.LINGER, 0)
dealer.setsockopt(zmq.RECONNECT_IVL, 10)
dealer.connect("ipc://" + path)
number = 0
while True:
    number += 1
    if kind == "malformed":
        dealer.send(b"\\xc1" + b"?" * 40)
    elif kind == "invalid":
        dealer.send(msgpack.packb({"verb": "jit", "id": number, "config": 7}))
    elif kind == "oversize":
        dealer.send(b"x" * (2 << 20))
    else:
        dealer.send(msgpack.packb({"verb": "status", "id": number}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--calls", type=int, default=300, help="hits in one block")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of floods, with commas between them")
    parser.add_argument("--pin", action="store_true", help="clients on one core, servers on another")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if os.getuid() != 0:
        print("Only root can be two users: run it with sudo.", file=sys.stderr)
        return 2
    with host() as (folder, daemon):
        report = measure(folder, daemon, arguments)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


@contextlib.contextmanager
def host() -> Iterator[tuple[Path, psutil.Process]]:
    """A daemon of many users, and its process; this process is one of them."""
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "config.toml").write_text(
        f'mode = "system"\nusers = ["{HOSTILE}"]\nadmins = ["root"]\n'
        f'[toolchains.double]\npython = "{sys.executable}"\nenvironment = {{ PYTHONPATH = "{DOUBLE}" }}\n'
    )
    os.environ |= {
        "MLC_LLM_HOME": str(folder / "c"),
        "MLC_JITD_CONFIG": str(folder / "config.toml"),
        "MLC_JITD_RUNTIME_DIR": str(folder / "r"),
        "MLC_JITD_SOCKET": str(folder / "r/s"),
        "MLC_JITD": "require",
    }
    command = [sys.executable, "-P", "-m", "mlc_jitd", "run", "--log-file", str(folder / "log")]
    daemon = subprocess.Popen(command, start_new_session=True)
    try:
        while not (folder / "r/s").exists():
            if daemon.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.05)
        yield folder, psutil.Process(daemon.pid)
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def flood(path: Path, kind: str) -> Iterator[None]:
    """A flood that has been going on for a moment."""
    with server(FLOOD, path, kind, HOSTILE):
        time.sleep(0.3)
        yield


def measure(folder: Path, daemon: psutil.Process, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    from mlc_jit import api

    tiny = model(folder / "tiny")

    def hit() -> None:
        api.jit(tiny, {}, "cpu", skip_log_jit_policy=True)

    calls = arguments.calls
    hit()  # compiles
    found: dict[str, dict[str, float]] = {}
    with server(ROUTER, folder / "bare", 300) as bare:
        (folder / "bare").chmod(0o666)
        if arguments.pin:
            pin([daemon.pid, bare.pid])
        timed(hit, calls)
        quiet = p50(timed(hit, calls))
        for kind in arguments.kinds.split(","):
            print(f"{kind} …", file=sys.stderr)
            here: list[list[float]] = []
            there: list[list[float]] = []
            before = daemon.memory_info().rss
            for number in range(arguments.blocks):
                order = [(folder / "r/s", here), (folder / "bare", there)]
                for path, into in order if number % 2 else reversed(order):
                    with flood(path, kind):
                        into.append(timed(hit, calls))
            found[kind] = {
                "quiet_us": quiet,
                "elsewhere_us": statistics.median(map(p50, there)),
                "here_us": statistics.median(map(p50, here)),
                "ratio": statistics.median(p50(a) / p50(b) for a, b in zip(here, there, strict=True)),
                "ratio_p99": statistics.median(p99(a) / p99(b) for a, b in zip(here, there, strict=True)),
                "grown_mib": (daemon.memory_info().rss - before) / (1 << 20),
            }
    return found


def table(report: dict[str, dict[str, float]]) -> str:
    heads = ["quiet us", "elsewhere", "here", "ratio", "ratio p99", "grown MiB"]
    names = ["quiet_us", "elsewhere_us", "here_us", "ratio", "ratio_p99", "grown_mib"]
    lines = []
    for kind, each in report.items():
        cells = [f"{each[name]:.2f}" if name.startswith("ratio") else f"{each[name]:.0f}" for name in names]
        lines.append((kind, cells))
    worst = max(each["ratio"] for each in report.values())
    verdict = "met" if worst <= GOAL else "MISSED"
    return rows("a hit while another user floods", heads, lines) + f"\n\ngoal {GOAL}: {verdict}, worst {worst:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
