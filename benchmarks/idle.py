"""What a daemon takes while nobody asks: resident memory, processor time, wake-ups.

    python benchmarks/idle.py [--seconds 60] [--json]

Three daemons one after another, each without the optional parts: one that has just started; one that has compiled and
handed out a library, with the client still connected and its model folder watched, after its warm compiler has gone;
and the same with the warm compiler still loaded, as it is for ten minutes after a compile (its own process and its
supervisor are not counted). Goals, for the first two: under 60 MB resident, under 0.2 % of a core, at most one wake-up
a second.

A wake-up is a thread's voluntary context switch: it had gone to sleep and was woken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

import common

SETTLE_SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("it reads /proc")
    from mlc_jit import channel, jit

    report = {}
    for name, warm in (("just started", None), ("has served", "0"), ("has served, warm compiler", "2")):
        with common.ground(MLC_JITD_WARM=warm or "0") as (_, model):
            if warm is None:
                channel.forget()
                _start()
            else:
                jit(model, {}, "cpu")
                jit(model, {}, "cpu")
            time.sleep(SETTLE_SECONDS)
            report[name] = measured(common.daemon(), arguments.seconds)
            channel.forget()
    print(json.dumps(report, indent=1) if arguments.json else table(report, arguments.seconds))
    return 0


def _start() -> None:
    """Start a daemon without asking it for anything."""
    from mlc_jit.autostart import ensure
    from mlc_jit.locations import locate

    ensure(locate())


def measured(pid: int, seconds: float) -> dict[str, float]:
    process = psutil.Process(pid)
    woken, used, began = wake_ups(pid), common.processor_us(pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        "resident_mb": process.memory_info().rss / 1e6,
        "core_percent": (common.processor_us(pid) - used) / took / 1e4,
        "wake_ups_per_second": (wake_ups(pid) - woken) / took,
        "threads": process.num_threads(),
    }


def wake_ups(pid: int) -> int:
    """Voluntary context switches of all threads so far."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended just now
            for line in (task / "status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "voluntary_ctxt_switches":
                    found += int(value)
    return found


def table(report: dict[str, Any], seconds: float) -> str:
    heads = ["MB", "% of a core", "wake-ups/s", "threads"]
    lines = [
        (
            name,
            [
                f"{each['resident_mb']:.1f}",
                f"{each['core_percent']:.3f}",
                f"{each['wake_ups_per_second']:.2f}",
                f"{each['threads']}",
            ],
        )
        for name, each in report.items()
    ]
    return common.rows(f"an idle daemon, over {seconds:g} s (pid {os.getpid()} looks on)", heads, lines)


if __name__ == "__main__":
    sys.exit(main())
