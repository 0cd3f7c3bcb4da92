"""Hits while a watched model folder is full of events, beside the same storm in a folder that nobody watches.

    python benchmarks/watching.py [--blocks 9] [--calls 400] [--json]

A storm is another process that makes, renames and removes files as fast as it can. The storm elsewhere is the fair
comparison: it takes as much of the machine, and no event of it reaches the daemon. Goal: the same latency of a hit.
The last row is the delay between a config's change and the daemon's word of it, in a quiet folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import TINY, p50, p99, timed

STORM = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while True:
    for number in range(100):
        os.close(os.open(f"{number}.tmp", os.O_CREAT | os.O_WRONLY))
        os.rename(f"{number}.tmp", "mlc-chat-config.json.tmp")
    os.unlink("mlc-chat-config.json.tmp")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--calls", type=int, default=400, help="hits in one block")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    os.environ |= {"MLC_LLM_HOME": str(folder / "c"), "MLC_JITD_RUNTIME_DIR": str(folder / "r")}
    (folder / "r").mkdir(mode=0o700)
    daemon = subprocess.Popen([sys.executable, "-P", "-m", "mlc_jitd", "run"], stderr=subprocess.DEVNULL)
    try:
        report = measure(folder, arguments.blocks, arguments.calls)
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, blocks: int, calls: int) -> dict[str, dict[str, float]]:
    from mlc_jit import api, watching

    model, elsewhere = folder / "model", folder / "elsewhere"
    for each in (model, elsewhere):
        each.mkdir()
    config = model / "mlc-chat-config.json"
    config.write_text(json.dumps(TINY))
    while not list((folder / "r").glob("*.sock")):
        time.sleep(0.05)
    print("compiling a tiny library …", file=sys.stderr)
    api.jit(model, {}, "cpu", skip_log_jit_policy=True)

    def hit() -> None:
        api.jit(model, {}, "cpu", skip_log_jit_policy=True)

    heard: list[tuple[str, float]] = []

    def listen() -> None:
        for event in watching.watch():
            heard.append((event.what, time.monotonic()))  # noqa: PERF401 - each as it comes

    threading.Thread(target=listen, daemon=True).start()
    time.sleep(4.0)  # until the folder is watched and the daemon has read what it reads at first
    timed(hit, calls)
    ways: dict[str, Path | None] = {"quiet": None, "storm elsewhere": elsewhere, "storm in a watched folder": model}
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(blocks):
        for name, place in ways.items():
            taken[name].append(stormy(place, hit, calls))
    found = {
        name: {
            "p50_us": statistics.median(map(p50, blocks_)),
            "p99_us": statistics.median(map(p99, blocks_)),
        }
        for name, blocks_ in taken.items()
    }
    delays = []
    for number in range(5):
        time.sleep(2.5)
        before, began = len(heard), time.monotonic()
        config.write_text(json.dumps({**TINY, "vocab_size": 300 + number}))
        while not any(what == "changed" for what, _ in heard[before:]) and time.monotonic() < began + 20:
            time.sleep(0.005)
        delays.append(next((at for what, at in heard[before:] if what == "changed"), began + 20) - began)
    found["a change is told after"] = {"p50_us": statistics.median(delays) * 1e6, "p99_us": max(delays) * 1e6}
    return found


def stormy(place: Path | None, call: object, calls: int) -> list[float]:
    if place is None:
        return timed(call, calls)  # type: ignore[arg-type]
    storm = subprocess.Popen([sys.executable, "-c", STORM, str(place)], stdout=subprocess.PIPE)
    try:
        assert storm.stdout is not None
        storm.stdout.readline()
        return timed(call, calls)  # type: ignore[arg-type]
    finally:
        storm.kill()
        storm.communicate()


def table(report: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':28}{'median':>12}{'99th':>12}"]
    lines += [f"{name:28}{row['p50_us']:9.0f} us{row['p99_us']:9.0f} us" for name, row in report.items()]
    there, here = report["storm elsewhere"], report["storm in a watched folder"]
    lines.append(f"watched beside elsewhere: {here['p50_us'] / there['p50_us']:.2f}x median, "
                 f"{here['p99_us'] / there['p99_us']:.2f}x 99th (goal: 1)")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
