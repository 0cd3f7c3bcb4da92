"""Hits while two compiles run and a collection is under way, beside the hits of the same daemon when it is quiet.

    python benchmarks/busy.py [--entries 6000] [--blocks 10] [--json]

Goal: the 99th percentile at most 3x that of quiet. Blocks alternate: in a quiet one nothing else is asked of the
daemon; a busy one lasts as long as a collection of its share of the cache takes, which begins when both compiles (REDO,
by processes of their own, of the embedded toolchain) run, and counts only while both still do. So each block is short,
and its figures are compared with those of the quiet block before it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import TINY, p50, p99, rows
from entries import SETTLED_SECONDS, Cache, multiply, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPILES = 2
QUIET_CALLS = 2000
LEAST_CALLS = 200
"""A busy block of fewer hits has no 99th percentile worth the name, and is left out."""

CONFIG = "jobs = {jobs}\nwarm = {jobs}\ngrace_seconds = 0\nmax_size = {size}\nmin_free = 0\ncollect_seconds = 600\n"
REDO = """
import sys
from mlc_jit import jit
jit(sys.argv[1], {}, "cpu", skip_log_jit_policy=True)
"""
END_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=6000, help="what the collections have to take from")
    parser.add_argument("--blocks", type=int, default=10, help="of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    try:
        report = measure(folder, arguments.entries, arguments.blocks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, entries: int, blocks: int) -> dict[str, Any]:
    models = list(make_models(folder, COMPILES + 1))
    cache = Cache(folder / "cache")
    say(cache, 0)
    print(f"compiling {len(models)} tiny libraries …", file=sys.stderr)
    with cache:
        cache.hit(models[0])
    multiply(cache.home / "model_lib", entries - 1)
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    collected = 0
    with cache:
        for model in models:
            cache.hit(model)
        time.sleep(SETTLED_SECONDS)
        full = cache.status()
        for number in range(blocks):
            quiet.append([timed(cache, models[0]) for _ in range(QUIET_CALLS)])
            found, removed = busy_block(cache, models, full.bytes * (blocks - number - 1) // blocks)
            print(f"block {number + 1}: {len(found)} hits, {removed} entries collected meanwhile", file=sys.stderr)
            if len(found) >= LEAST_CALLS:
                busy.append(found)
                collected += removed
            else:
                quiet.pop()
    if not busy:
        raise SystemExit("no block was busy for long enough: more --entries")
    ratios = {
        name: statistics.median(of(b) / of(q) for q, b in zip(quiet, busy, strict=True))
        for name, of in (("p50", p50), ("p99", p99))
    }
    return {
        "entries": entries,
        "blocks": len(busy),
        "collected": collected,
        "quiet_us": figures(quiet),
        "busy_us": figures(busy),
        "ratio": ratios,
    }


def make_models(folder: Path, count: int) -> Iterator[Path]:
    for number in range(count):
        made = folder / f"model{number}"
        made.mkdir()
        (made / "mlc-chat-config.json").write_text(json.dumps({**TINY, "vocab_size": 256 + number}, indent=2))
        yield made


def say(cache: Cache, size: int) -> None:
    cache.config.write_text(CONFIG.format(jobs=COMPILES, size=size))


def busy_block(cache: Cache, models: list[Path], size: int) -> tuple[list[float], int]:
    """Microseconds of hits while compiles run and the cache is brought to a size; and how many entries that took."""
    assert cache.process is not None
    before = cache.status()
    command = [sys.executable, "-P", "-c", REDO]
    env = {**cache.env, "MLC_JIT_POLICY": "REDO"}
    compiles = [subprocess.Popen([*command, str(model)], env=env) for model in models[1:]]
    over = threading.Event()
    try:
        wait(lambda: sum(job.state == "running" for job in cache.status().jobs) == COMPILES, "two running compiles")
        say(cache, max(1, size))
        cache.process.send_signal(signal.SIGHUP)

        def watch() -> None:
            while not over.is_set():
                ended = cache.status().cache.collected > before.cache.collected
                if ended or any(each.poll() is not None for each in compiles):
                    over.set()
                time.sleep(0.1)

        threading.Thread(target=watch, daemon=True).start()
        found = []
        while not over.is_set():
            found.append(timed(cache, models[0]))
        removed = before.entries - cache.status().entries
    finally:
        over.set()
        for each in compiles:
            each.wait(END_SECONDS)
    wait(lambda: cache.status().cache.collected > before.cache.collected, "the collection's end")
    say(cache, 0)
    cache.process.send_signal(signal.SIGHUP)
    wait(lambda: not cache.status().jobs, "a quiet daemon")
    return found, removed


def wait(condition: Any, what: str) -> None:
    end = time.monotonic() + END_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


def figures(blocks: list[list[float]]) -> dict[str, float]:
    """Medians over the blocks."""
    return {
        "calls": sum(map(len, blocks)),
        "p50": statistics.median(map(p50, blocks)),
        "p99": statistics.median(map(p99, blocks)),
        "max": max(map(max, blocks)),
    }


def table(report: dict[str, Any]) -> str:
    quiet, busy, ratio = report["quiet_us"], report["busy_us"], report["ratio"]
    lines = [
        (f"hit, {name}", [f"{quiet[name]:.0f} us", f"{busy[name]:.0f} us", f"{ratio[name]:.2f}x"])
        for name in ("p50", "p99")
    ]
    lines.append(("hit, slowest", [f"{quiet['max']:.0f} us", f"{busy['max']:.0f} us", ""]))
    return "\n".join(
        [
            rows("", ["quiet", "busy", "ratio"], lines),
            (
                f"{report['blocks']} blocks of each; {busy['calls']} hits beside {COMPILES} compiles and the "
                f"collection of {report['collected']} entries, on {len(os.sched_getaffinity(0))} cores; goal: p99 3x"
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
