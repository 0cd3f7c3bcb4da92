"""What CPU-bound serving processes keep of their throughput while as many CPU-bound compiles as cores run.

    python benchmarks/yielding.py [--rounds 3] [--seconds 5] [--cgroup auto] [--json]

One serving process per core, of normal priority, each in a session of its own. Beside them, in turns: nobody; compiles
under the build room's supervisor with control groups; the same without (nice, SCHED_BATCH, autogroup lowered); plain
subprocesses in sessions of their own. Each figure is the median of the rounds' shares of "alone" in the same round, so
that the machine's mood hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.build import JobGroups, Limits, StopSignal, run
from mlc_jitd.schedule.capacity.cgroups import Groups

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = "while True: pass"
SERVE = """
import sys, time
begin, end, done = float(sys.argv[1]), float(sys.argv[2]), 0
while time.monotonic() < begin: pass
while time.monotonic() < end:
    for _ in range(20000): pass
    done += 1
print(done)
"""
SETTLE_SECONDS = 1.5  # the supervisor lowers an autogroup at its first look, half a second after the start
GIVEN_CORES = len(os.sched_getaffinity(0))
WAYS = {
    "alone": "nobody compiles",
    "cgroup": "cgroup weight, nice, SCHED_BATCH",
    "autogroup": "autogroup lowered, nice, SCHED_BATCH",
    "plain": "plain subprocess",
}


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: Path = Path("/")


def serve(seconds: float) -> int:
    """The turns that all serving processes did together."""
    begin = time.monotonic() + SETTLE_SECONDS
    argv = [sys.executable, "-I", "-S", "-c", SERVE, str(begin), str(begin + seconds)]
    serving = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in range(GIVEN_CORES)
    ]
    return sum(int(process.communicate()[0]) for process in serving)


@contextmanager
def compiles(way: str, groups: JobGroups, held: set[str]) -> Iterator[None]:
    """As many compiles as cores, until the end of the block."""
    command = Command((sys.executable, "-I", "-S", "-c", BUSY))
    if way == "alone":
        yield
    elif way == "plain":
        doubles = [subprocess.Popen(command.argv, start_new_session=True) for _ in range(GIVEN_CORES)]
        yield
        for double in doubles:
            double.kill()
            double.wait()
    else:
        stops = [StopSignal() for _ in range(GIVEN_CORES)]

        def job(stop: StopSignal) -> None:
            given = groups if way == "cgroup" else None
            log = Path(os.devnull)
            held.update(run(command, Limits(), log=log, on_line=lambda _: None, stop=stop, groups=given).yielding)

        threads = [threading.Thread(target=job, args=(stop,)) for stop in stops]
        for thread in threads:
            thread.start()
        yield
        for stop in stops:
            stop.stop("cancelled")
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cgroup", default="auto", help="as MLC_JITD_CGROUP")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    groups = JobGroups.open(given.cgroup, Groups(Path("/")).of("cpu"))
    ways = [way for way in WAYS if way != "cgroup" or groups.places]
    held: dict[str, set[str]] = {way: set() for way in ways}
    shares: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        alone = 0
        for way in ways:
            with compiles(way, groups, held[way]):
                turns = serve(given.seconds)
            alone = alone or turns
            shares[way].append(turns / alone)
    result = {
        way: {
            "share": round(statistics.median(shares[way]), 3),
            "rounds": [round(each, 3) for each in shares[way]],
            "held": sorted(held[way]),
        }
        for way in ways
    }
    if given.json:
        print(json.dumps({"cores": GIVEN_CORES, "ways": result}))
        return
    print(f"{GIVEN_CORES} cores, {given.rounds} rounds of {given.seconds:g} s; serving processes keep, of alone:")
    for way, facts in result.items():
        spread = " ".join(f"{each:.2f}" for each in facts["rounds"])
        print(f"  {WAYS[way]:38} {facts['share']:.2f}   ({spread})   {' '.join(facts['held'])}")
    if not groups.places:
        print(f"  no control groups: {groups.why}")


if __name__ == "__main__":
    main()
