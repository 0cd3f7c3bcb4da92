"""What CPU-bound serving processes keep of their throughput while compiles run, and what is left for the compiles.

    python benchmarks/yielding.py [--rounds 5] [--seconds 4] [--busy N] [--cgroup auto] [--json]

One serving process per core, of normal priority, each in a session of its own. Beside them, in turns: compiles under
the build room's supervisor with control groups; the same without (nice, SCHED_BATCH, autogroup lowered); plain
subprocesses in sessions of their own. As many compiles as this host admits, each with the cores that it is admitted
with; `--busy` says how many of those it uses (all, or 1 as in most steps of a compile).

Between any two turns the serving processes run alone, and each turn is compared with the mean of the one before and
the one after it, so that the machine's mood hits all alike. A figure is the median of the rounds. `compile gets` is
what one compile has of one core, 1.00 being a whole one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mlc_jitd.build import JobGroups, Limits, StopSignal, run
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.capacity.cgroups import Groups
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.jobs import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = """
import os, sys
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while True: pass
"""
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


@dataclass(frozen=True)
class Load:
    """Compiles: so many, each admitted with `cores` and busy on `busy` of them."""

    jobs: int
    cores: int
    busy: int
    groups: JobGroups

    def command(self) -> Command:
        return Command((sys.executable, "-I", "-S", "-c", BUSY, str(self.busy)))

    @contextmanager
    def beside(self, way: str, seen: Seen) -> Iterator[None]:
        """They run until the end of the block."""
        with self._plain(seen) if way == "plain" else self._supervised(way, seen):
            yield

    @contextmanager
    def _plain(self, seen: Seen) -> Iterator[None]:
        began = time.monotonic()
        doubles = [subprocess.Popen(self.command().argv, start_new_session=True) for _ in range(self.jobs)]
        yield
        took = time.monotonic() - began
        for double in doubles:
            busy = psutil.Process(double.pid)
            each = [busy, *busy.children()]
            seen.got.append(sum(sum(process.cpu_times()[:2]) for process in each) / took)
            os.killpg(double.pid, signal.SIGKILL)
            double.wait()

    @contextmanager
    def _supervised(self, way: str, seen: Seen) -> Iterator[None]:
        stops = [StopSignal() for _ in range(self.jobs)]

        def job(stop: StopSignal) -> None:
            outcome = run(
                self.command(),
                Limits(cores=self.cores, grace=0),
                log=Path(os.devnull),
                on_line=lambda _: None,
                stop=stop,
                groups=self.groups if way == "cgroup" else None,
            )
            seen.held.update(outcome.yielding)
            seen.got.append(outcome.cpu_seconds / outcome.seconds)

        threads = [threading.Thread(target=job, args=(stop,)) for stop in stops]
        for thread in threads:
            thread.start()
        yield
        for stop in stops:
            stop.stop("cancelled")
        for thread in threads:
            thread.join()


@dataclass
class Seen:
    """Of one way: what serving kept, what each compile got, what held."""

    kept: list[float] = field(default_factory=list)
    got: list[float] = field(default_factory=list)
    held: set[str] = field(default_factory=set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--busy", type=int, default=0, help="cores that a compile uses; all that it has by default")
    parser.add_argument("--cgroup", default="auto", help="as MLC_JITD_CGROUP")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    groups = JobGroups.open(given.cgroup, Groups(Path("/")).of("cpu"))
    admitted = slots(capacity.read(), Settings())
    load = Load(admitted.jobs, admitted.cores, given.busy or admitted.cores, groups)
    found = {way: Seen() for way in WAYS if way != "cgroup" or groups.places}
    before = serve(given.seconds)
    for _ in range(given.rounds):
        for way, seen in found.items():
            with load.beside(way, seen):
                turns = serve(given.seconds)
            after = serve(given.seconds)
            seen.kept.append(2 * turns / (before + after))
            before = after
    report(load, found, given)


def report(load: Load, found: dict[str, Seen], given: argparse.Namespace) -> None:
    result = {
        way: {
            "kept": round(statistics.median(seen.kept), 3),
            "rounds": [round(each, 3) for each in seen.kept],
            "compile": round(statistics.median(seen.got), 3),
            "held": sorted(seen.held),
        }
        for way, seen in found.items()
    }
    about = {"cores": GIVEN_CORES, "jobs": load.jobs, "cores_per_job": load.cores, "busy": load.busy}
    if given.json:
        print(json.dumps({**about, "ways": result}))
        return
    print(
        f"{GIVEN_CORES} cores, a busy serving process on each; {load.jobs} x {load.cores} cores for compiles, "
        f"{load.busy} of them busy\n{given.rounds} rounds of {given.seconds:g} s; serving processes keep, of alone:"
    )
    for way, facts in result.items():
        spread = " ".join(f"{each:.2f}" for each in facts["rounds"])
        print(f"  {WAYS[way]:38} {facts['kept']:.2f}   ({spread})   compile gets {facts['compile']:.2f}")
        print(f"  {'':38} {' '.join(facts['held'])}".rstrip())
    if not load.groups.places:
        print(f"  no control groups: {load.groups.why}")


if __name__ == "__main__":
    main()
