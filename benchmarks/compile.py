"""A compile with its kernels compiled apart and reused, beside the compiler's own, side by side in one run.

    python benchmarks/compile.py [--runs 3] [--models FOLDER] [--json]
        [--python PYTHON [--pythonpath PATH] [--pass NAME ...] [--target JSON]]

For the embedded toolchain always (those of the models that it can compile, and a tiny one of its own), for real mlc_llm
where `--python` names an interpreter that has it. Every compile is a plain process, without a daemon: `plain` is
`python -m` (or our script) as it is. Of each model, medians of `--runs`:

    plain       the compiler's own code generation
    first       kernels compiled apart, none known
    overrides   only context_window_size, max_batch_size and prefill_chunk_size changed; the store of that model known

Then all models one after another with one store (`chain`), and all again with changed overrides (`chain again`), with
the share of kernels reused. Last, libraries: size to plain's, and for the embedded toolchain the time of a prefill and
a decode, plain and apart in turn.

Goals: first at most 0.5 of plain (tiny 0.4, none above 0.95), overrides at most 0.35, size at most 1.05.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import TINY
from mlc_jit.errors import JitError
from mlc_jit.messages import JitRequest
from mlc_jit.variables import collect
from mlc_jitd.acceleration import build_of
from mlc_jitd.identity import Identifier
from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains import kernels, toolchain

CHANGED = {"context_window_size": 768, "max_batch_size": 4, "prefill_chunk_size": 96}
ROOM = 1 << 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--models", type=Path, help="a folder of model folders; each has a mlc-chat-config.json")
    parser.add_argument("--only", action="append", default=[], help="names of those to take; all without it")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="kernels at a time")
    parser.add_argument("--python", help="an interpreter that has mlc_llm")
    parser.add_argument("--pythonpath", default="", help="PYTHONPATH for it")
    parser.add_argument("--pass", dest="passed", action="append", default=[], help="a variable to pass to it")
    parser.add_argument("--device", default="cpu", help="device text, or a target as JSON")
    parser.add_argument("--no-embedded", action="store_true", help="only mlc_llm")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()

    models = {"tiny": json.dumps(TINY).encode()}
    for folder in sorted(given.models.iterdir()) if given.models else []:
        if (folder / "mlc-chat-config.json").is_file():
            models[folder.name] = (folder / "mlc-chat-config.json").read_bytes()
    if given.only:
        models = {name: config for name, config in models.items() if name in given.only}
    chains = [] if given.no_embedded else [("tvm", sys.executable, {})]
    if given.python:
        env = {name: os.environ[name] for name in given.passed}
        chains.append(
            ("mlc_llm", given.python, {**env, **({"PYTHONPATH": given.pythonpath} if given.pythonpath else {})})
        )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mlc-jitd-bench-") as folder:
        for name, python, env in chains:
            bench = Bench(Path(folder) / name, name, python, env, given)
            found[name] = bench.measure(models, given.runs)
    if given.json:
        print(json.dumps(found))
    else:
        for name, rows in found.items():
            show(name, rows)
    return 0


@dataclasses.dataclass(frozen=True)
class Done:
    """One compile."""

    wall: float
    library: Path
    report: kernels.KernelReport


class Bench:
    """One toolchain."""

    def __init__(self, folder: Path, name: str, python: str, env: dict[str, str], given: argparse.Namespace) -> None:
        folder.mkdir()
        self.folder, self.name, self.python, self.env, self.given = folder, name, python, env, given
        self.identifier = Identifier(folder / "identity")
        self.number = 0

    def measure(self, models: dict[str, bytes], runs: int) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for model, config in models.items():
            try:
                rows[model] = self.one(model, config, runs)
            except (JitError, Refused) as error:
                print(f"{self.name} {model}: left out: {error}", file=sys.stderr)
        taken = {model: models[model] for model in rows}
        return {"models": rows, "chain": self.chain(taken, rows)}

    def one(self, model: str, config: bytes, runs: int) -> dict[str, Any]:
        took: dict[str, list[float]] = {"plain": [], "first": [], "overrides": []}
        for _ in range(runs):
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                store = KernelStore(Path(name), limit=ROOM)
                plain = self.compile(model, config, {}, None)
                first = self.compile(model, config, {}, store)
                again = self.compile(model, config, CHANGED, store)
                for kind, done in (("plain", plain), ("first", first), ("overrides", again)):
                    took[kind].append(done.wall)
        row: dict[str, Any] = {kind: statistics.median(each) for kind, each in took.items()}
        row |= {"kernels": first.report.kernels, "reused": len(again.report.reused) / max(1, again.report.kernels)}
        row["size"] = first.library.stat().st_size / plain.library.stat().st_size
        if self.name == "tvm":
            row |= self.speed(plain.library, first.library)
        return row

    def chain(self, models: dict[str, bytes], rows: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"plain": sum(row["plain"] for row in rows.values())}
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            store = KernelStore(Path(name), limit=ROOM)
            for kind, overrides in (("chain", {}), ("chain again", CHANGED)):
                found[kind] = 0.0
                for model, config in models.items():
                    done = self.compile(model, config, overrides, store)
                    found[kind] += done.wall
                    found[f"{kind}: {model}"] = len(done.report.reused) / max(1, done.report.kernels)
        return found

    def compile(self, model: str, config: bytes, overrides: dict[str, Any], store: KernelStore | None) -> Done:
        request = JitRequest(
            id=1,
            config=config,
            overrides=overrides,
            device=self.given.device,
            python=self.python,
            toolchain="tvm" if self.name == "tvm" else "mlc_llm",
            environment={**collect({"PATH": os.environ["PATH"]}), **self.env},
        )
        identity = self.identifier.identify(request)
        self.number += 1
        place = self.folder / str(self.number)
        (place / "scratch").mkdir(parents=True)
        (place / "new").mkdir()
        library = place / "lib.so"
        command = toolchain(identity.toolchain.name).command(
            identity.job, scratch=place / "scratch", output=library, cores=self.given.cores
        )
        if store is not None:
            command = kernels.accelerated(
                command,
                store=store.root,
                new=place / "new",
                identity=build_of(identity.toolchain),
                workers=self.given.cores,
            )
        with (place / "log").open("w+") as log:
            began = time.perf_counter()
            done = subprocess.run(
                command.argv, env=dict(command.env), cwd=command.cwd, stdout=log, stderr=log, check=False
            )
            wall = time.perf_counter() - began
            log.seek(0)
            if done.returncode:
                raise Refused(log.read()[-300:].strip().replace("\n", " | "))
        report = kernels.read_report(place / "new")
        if store is not None:
            if report.way != "kernels":
                raise Refused(f"not compiled apart: {report.why}")
            store.take_in(place / "new", report)
        kind = "plain" if store is None else f"apart, {len(report.reused)} of {report.kernels} reused"
        print(f"{self.name} {model} {kind}: {wall:.1f} s", file=sys.stderr, flush=True)
        return Done(wall, library, report)

    def speed(self, plain: Path, apart: Path) -> dict[str, float]:
        """Seconds of a prefill and a decode in a process of each library, in turn; medians of their medians."""
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "apart": []}
        for _ in range(5):
            for name, library in (("plain", plain), ("apart", apart)):
                run = [sys.executable, "-c", SPEED, str(library)]
                done = subprocess.run(run, capture_output=True, text=True, check=True)
                found[name].append(tuple(json.loads(done.stdout)))
        medians = {
            name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in found.items()
        }
        return {
            "prefill": medians["apart"][0] / medians["plain"][0],
            "decode": medians["apart"][1] / medians["plain"][1],
        }


class Refused(Exception):  # noqa: N818 - it is no error of the benchmark
    """A model that this toolchain can't compile."""


SPEED = """
import json, statistics, sys, time
import numpy as np, tvm
from tvm import relax
vm = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
facts = json.loads(vm["_metadata"]())
rng = np.random.default_rng(1)
size = lambda extent: 512 if isinstance(extent, str) else extent
weights = [rng.standard_normal([size(e) for e in p["shape"]]) * 0.02 for p in facts["params"]]
weights = [tvm.runtime.tensor(w.astype(p["dtype"])) for w, p in zip(weights, facts["params"])]
shape = lambda *extents: tvm.runtime.ShapeTuple(extents)
cache = vm["create_tir_paged_kv_cache"](*(shape(each) for each in (1, 256, 64, 16, 0)))
call = tvm.get_global_func
def step(name, count):
    embeds = vm["embed"](tvm.runtime.tensor(np.arange(count, dtype="int32")), weights)
    embeds = call("vm.builtin.reshape")(embeds, shape(1, count, embeds.shape[1]))
    call("vm.builtin.kv_state_begin_forward")(cache, shape(0), shape(count))
    began = time.perf_counter()
    vm[name](embeds, cache, weights)
    took = time.perf_counter() - began
    call("vm.builtin.kv_state_end_forward")(cache)
    return took
prefill, decode = [], []
for _ in range(7):
    call("vm.builtin.kv_state_clear")(cache)
    call("vm.builtin.kv_state_add_sequence")(cache, 0)
    prefill.append(step("prefill", 48))
    decode += [step("decode", 1) for _ in range(10)]
print(json.dumps([statistics.median(prefill), statistics.median(decode)]))
"""


def show(name: str, found: dict[str, Any]) -> None:
    print(
        f"\n{name}, {len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}; seconds, and ratios to plain\n"
    )
    print("| model | plain | first | | overrides | | kernels | reused | size | prefill | decode |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for model, row in found["models"].items():
        speeds = " | ".join(f"{row[each]:.2f}" if each in row else "" for each in ("prefill", "decode"))
        plain, first, changed = row["plain"], row["first"], row["overrides"]
        times = f"{plain:.1f} | {first:.1f} | {first / plain:.2f} | {changed:.1f} | {changed / plain:.2f}"
        print(f"| {model} | {times} | {row['kernels']} | {row['reused']:.0%} | {row['size']:.3f} | {speeds} |")
    chain = found["chain"]
    plain, first, again = chain["plain"], chain["chain"], chain["chain again"]
    print(f"\nall, one after another, one store: {first:.1f} s, {first / plain:.2f} of plain's {plain:.1f} s")
    print(f"all again, overrides changed: {again:.1f} s, {again / plain:.2f}")
    for model in found["models"]:
        print(f"  {model}: {chain[f'chain: {model}']:.0%} reused, then {chain[f'chain again: {model}']:.0%}")


if __name__ == "__main__":
    sys.exit(main())
