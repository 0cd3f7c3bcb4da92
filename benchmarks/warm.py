"""A compile in a warm compiler beside the same compile as a plain subprocess, and beside upstream's command line.

    python benchmarks/warm.py [--runs 3] [--allocator] [--endure 0] [--json]
        [--python PYTHON [--pythonpath PATH] [--pass NAME] [--model FOLDER]]

Alternating in one run, medians. The embedded toolchain is always measured; `mlc_llm` where `--python` names an
interpreter that has it. Rows:

    upstream      `python -m mlc_llm compile FOLDER --device cpu` (imports, probes the device in a second process)
    plain         our subprocess: target explicit, allocator settings
    plain-libc    the same with the C library's own allocator settings (`--allocator`)
    warm          forked from a process that has imported the compiler, target explicit, allocator settings
    warm-libc     the same with the C library's own allocator settings
    import        only starting an interpreter that imports the compiler

`--endure 200` compiles that often in a row through one warm compiler of the embedded toolchain, and tells what its
process holds at the tenth compile and at the last.

`wall` is what a client waits; `cpu` is what the process tree used, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from common import TINY
from mlc_jit.messages import JitRequest
from mlc_jit.variables import collect
from mlc_jitd.build import Kind, Limits, Outcome, StopSignal, WarmCompilers, run
from mlc_jitd.identity import Identifier
from mlc_jitd.toolchains import Command, toolchain

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.identity import Identity

Row = tuple[float, float, int]

WARMED_UP = 10
SMALL = {**TINY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 64}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--python", help="an interpreter that has mlc_llm")
    parser.add_argument("--pythonpath", default="", help="PYTHONPATH for it")
    parser.add_argument("--pass", dest="passed", action="append", default=[], help="a variable to pass to it")
    parser.add_argument("--model", type=Path, help="a folder with mlc-chat-config.json for mlc_llm")
    parser.add_argument("--allocator", action="store_true", help="measure the -libc rows too")
    parser.add_argument("--endure", type=int, default=0, metavar="N", help="compile N times in a row first")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mlc-jitd-bench-") as folder:
        if given.endure:
            Bench(Path(folder), sys.executable, json.dumps(SMALL).encode(), {}).endure(given.endure)
        found = {
            "tvm": Bench(Path(folder), sys.executable, json.dumps(TINY).encode(), {}).measure(
                given.runs, allocator=given.allocator
            )
        }
        if given.python:
            config = (given.model / "mlc-chat-config.json").read_bytes() if given.model else json.dumps(TINY).encode()
            env = {name: os.environ[name] for name in given.passed}
            if given.pythonpath:
                env["PYTHONPATH"] = given.pythonpath
            found["mlc_llm"] = Bench(Path(folder), given.python, config, env).measure(
                given.runs, allocator=given.allocator
            )
    if given.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0


class Bench:
    """One toolchain and one model."""

    def __init__(self, folder: Path, python: str, config: bytes, env: dict[str, str]) -> None:
        self.folder = folder
        self.mlc = bool(python != sys.executable or env)
        request = JitRequest(
            id=1,
            config=config,
            device="cpu",
            python=python,
            toolchain="mlc_llm" if self.mlc else "tvm",
            environment={**collect({"PATH": os.environ["PATH"]}), **env},
        )
        self.identity: Identity = Identifier(folder / "identity").identify(request)
        self.chain = toolchain(self.identity.toolchain.name)
        self.pool = WarmCompilers(most=2, idle=3600, memory_free=lambda: 1 << 62)
        self.cold: list[float] = []

    def measure(self, runs: int, *, allocator: bool) -> dict[str, dict[str, float]]:
        """Everything once in turn, `runs` times; the first turn of the warm ones starts their workers and is extra."""
        ways: dict[str, Callable[[], Row]] = {
            **({"upstream": self.upstream} if self.mlc else {}),
            "plain": lambda: self.ours(warm=False),
            "plain-libc": lambda: self.ours(warm=False, libc=True),
            "warm": lambda: self.ours(warm=True),
            "warm-libc": lambda: self.ours(warm=True, libc=True),
            "import": self.imports,
        }
        if not allocator:
            ways = {name: way for name, way in ways.items() if "libc" not in name}
        cold = [self.ours(warm=True, libc=libc) for libc in (False, True)[: 1 + allocator]]
        rows: dict[str, list[Row]] = {name: [] for name in ways}
        for _ in range(runs):
            for name, way in ways.items():
                rows[name].append(way())
                print(f"{self.chain.name} {name}: {rows[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
        self.pool.close()
        rows["warm, first"] = cold[:1]
        return {
            name: {
                "wall": statistics.median(row[0] for row in each),
                "cpu": statistics.median(row[1] for row in each),
                "memory": max(row[2] for row in each),
            }
            for name, each in rows.items()
        }

    def endure(self, times: int) -> None:
        """Compile that often in one warm compiler; say how its process grew from the tenth time on."""
        before = (0, 0, 0)
        for number in range(1, times + 1):
            self.ours(warm=True)
            (worker,) = self.pool.workers()
            process = psutil.Process(worker.pid)
            memory = process.memory_full_info()
            now = (memory.rss, memory.uss, process.num_fds())
            if number == min(WARMED_UP, times):
                before = now
        self.pool.close()
        per = 100 / max(1, times - WARMED_UP)
        rss, uss, files = (after - once for after, once in zip(now, before, strict=True))
        print(
            f"{times} compiles in one warm compiler: resident {now[0] / 2**20:.1f} MiB, {rss * per / 2**20:+.2f} MiB "
            f"per 100 compiles (its own pages {uss * per / 2**20:+.2f}), {now[2]} descriptors ({files:+d}); "
            f"{self.pool.counts}"
        )

    def ours(self, *, warm: bool, libc: bool = False) -> Row:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = Path(name)
            scratch, output = place / "scratch", place / f"lib.{self.identity.suffix}"
            scratch.mkdir()
            command = self.chain.command(self.identity.job, scratch=scratch, output=output, cores=1)
            if not warm:
                return self._timed(
                    lambda: run(_without(command, libc), Limits(), log=place / "log", **_quiet()), output
                )
            kind = Kind(
                libc, "", lambda own: _without(self.chain.warm(self.identity.job, folder=own), libc), lambda: True
            )
            return self._timed(
                lambda: self.pool.run(_without(command, libc), kind, Limits(), log=place / "log", **_quiet()), output
            )

    def upstream(self) -> Row:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = Path(name)
            (place / "mlc-chat-config.json").write_bytes(self.identity.job.config)
            output = place / "lib.so"
            env = {"HOME": name, "TMPDIR": name, "MLC_LLM_HOME": name, **dict(self.identity.job.environment)}
            argv = (self.identity.job.python, "-P", "-m", "mlc_llm", "compile", name, "--device", "cpu")
            command = Command((*argv, "--output", str(output)), tuple(env.items()), place)
            return self._timed(lambda: run(command, Limits(), log=place / "log", **_quiet()), output)

    def imports(self) -> Row:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            worker = self.chain.warm(self.identity.job, folder=Path(name))
            modules = [word for flag, word in zip(worker.argv, worker.argv[1:], strict=False) if flag == "--import"]
            search = [word for flag, word in zip(worker.argv, worker.argv[1:], strict=False) if flag == "--path"]
            code = f"import sys; sys.path[:0] = {search!r}; import {', '.join(modules)}"
            command = Command((worker.argv[0], "-P", "-c", code), worker.env, Path("/"))
            return self._timed(lambda: run(command, Limits(), log=Path(name) / "log", **_quiet()), None)

    def _timed(self, call: Callable[[], Outcome], output: Path | None) -> Row:
        began = time.perf_counter()
        outcome = call()
        wall = time.perf_counter() - began
        if not outcome.succeeded or (output is not None and not output.is_file()):
            raise SystemExit(f"{outcome.status} {outcome.exit_status} {outcome.detail}\n{outcome.log_tail}")
        return wall, outcome.cpu_seconds, outcome.peak_memory


def _without(command: Command, libc: bool) -> Command:
    """The command, without our allocator settings if `libc`."""
    kept = tuple((name, value) for name, value in command.env if not (libc and name.startswith("MALLOC_")))
    return dataclasses.replace(command, env=kept)


def _quiet() -> dict[str, object]:
    return {"on_line": lambda _: None, "stop": StopSignal()}


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    load = os.getloadavg()[0]
    processor = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{processor} CPUs, load {load:.1f}; medians; cpu without a warm worker's own import\n")
    print("| toolchain | way | wall s | cpu s | wall to plain | cpu to plain | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        plain = rows["plain"]
        for way, row in rows.items():
            ratios = f"{row['wall'] / plain['wall']:.2f} | {row['cpu'] / plain['cpu']:.2f}"
            print(f"| {name} | {way} | {row['wall']:.1f} | {row['cpu']:.1f} | {ratios} | {row['memory'] / 1e6:.0f} |")
        if "upstream" in rows:
            upstream, warm = rows["upstream"], rows["warm"]
            print(
                f"\n{name}: warm takes {warm['wall'] / upstream['wall']:.2f} of upstream's wall time and "
                f"{warm['cpu'] / upstream['cpu']:.2f} of its cpu time"
            )


if __name__ == "__main__":
    sys.exit(main())
