"""A compile with its kernels compiled apart and reused, beside the compiler's own, side by side in one run.

    python benchmarks/compile.py [--runs 3] [--models FOLDER] [--configs NAME,NAME] [--target x86-64-v3] [--cold]
        [--minutes 60] [--results FILE] [--json]
        [--python PYTHON [--pythonpath PATH] [--pass NAME ...] [--no-embedded]]

For the embedded toolchain always (those of the models that it can compile, and a tiny one of its own), for real mlc_llm
where `--python` names an interpreter that has it. Of each model, medians of `--runs`:

    alone       what a user runs: `python -m mlc_llm compile`, or our script, with the shell's own environment
    plain       the same as the daemon does it with acceleration off, not warm: an allocator that keeps what was freed,
                and the target explicit where `alone` has to look for it (--target cpu); measured once
    first       as the daemon does it, in a child of a compiler that is loaded: kernels compiled apart, none known
    overrides   the same, only context_window_size, max_batch_size and prefill_chunk_size changed; that model's known

Then all models one after another with one store (`chain`), and all again with changed overrides, with the share of
kernels reused, to the sum of `alone`. Libraries: size to plain's; whether every function computes the same, bit for
bit; the time of a prefill and of a decode, plain and apart in turn, beside what differs from one plain process to the
next.

It says how long it will take before it begins. `--minutes` bounds it: every model is measured once, then the chain,
then the other rounds; what would not fit is left out. With `--results FILE` each figure is written as it comes, and
what stands in there is not measured again: a run that was ended goes on, and further models are added. `--cold`
measures first and overrides in processes of their own too, imports included.

Goals: first at most 0.5 of alone (tiny ones 0.4, none above 0.95), overrides at most 0.35, size at most 1.05 of plain.
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
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from common import TINY
from mlc_jit.errors import JitError
from mlc_jit.messages import JitRequest
from mlc_jit.variables import collect
from mlc_jitd.acceleration import build_of
from mlc_jitd.build import Kind, Limits, StopSignal, WarmCompilers, run
from mlc_jitd.comparison import compare
from mlc_jitd.identity import Identifier
from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains import kernels, toolchain

if TYPE_CHECKING:
    from mlc_jitd.identity import Identity

CHANGED = {"context_window_size": 768, "max_batch_size": 4, "prefill_chunk_size": 96}
ROOM = 1 << 40
CHAIN = "chain"
SPEED = Path(__file__).with_name("speed.py")

PLAIN = {
    "tvm": {"tiny": (7, 6), "": (9, 8)},
    "mlc_llm": {"tiny-": (205, 27), "smollm2": (145, 60), "qwen2_": (90, 100), "qwen3": (72, 52), "llama3": (62, 42),
                "tiny": (60, 25), "": (100, 60)},
}  # fmt: skip
"""For the forecast alone: processor seconds of one plain compile by the beginning of a model's name, for a CPU with
AVX-512 and for x86-64-v3, on a Xeon (Sapphire Rapids)."""

FIRST, AGAIN = 0.65, 0.3
"""The same: what the others take of that."""

PROOF = {"tiny": 40, "smollm2": 150, "": 300}
"""The same: seconds for comparing and timing the libraries."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--models", type=Path, help="a folder of model folders; each has a mlc-chat-config.json")
    parser.add_argument("--configs", default="", help="names of those to take, by commas; all without it")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="kernels at a time")
    parser.add_argument("--python", help="an interpreter that has mlc_llm")
    parser.add_argument("--pythonpath", default="", help="PYTHONPATH for it")
    parser.add_argument("--pass", dest="passed", action="append", default=[], help="a variable to pass to it")
    parser.add_argument(
        "--target", default="cpu", help="cpu (this one), the name of an x86-64 CPU, or a target as JSON"
    )
    parser.add_argument("--no-embedded", action="store_true", help="only mlc_llm")
    parser.add_argument("--cold", action="store_true", help="no compiler is loaded beforehand")
    parser.add_argument("--no-proof", action="store_true", help="neither compare nor time the libraries")
    parser.add_argument("--minutes", type=float, default=0, help="leave out what would take longer")
    parser.add_argument("--results", type=Path, help="a file: figures are added, those that it has are not measured")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()

    models = {"tiny": json.dumps(TINY).encode()}
    for folder in sorted(given.models.iterdir()) if given.models else []:
        if (folder / "mlc-chat-config.json").is_file():
            models[folder.name] = (folder / "mlc-chat-config.json").read_bytes()
    if given.configs:
        models = {name: models[name] for name in given.configs.split(",")}
    results = Results(given.results, f"{given.target}{' cold' if given.cold else ''}")
    with tempfile.TemporaryDirectory(prefix="mlc-jitd-bench-") as folder:
        benches = []
        if not given.no_embedded:
            benches.append(Bench(Path(folder), "tvm", sys.executable, {}, given=given, results=results))
        if given.python:
            env = {name: os.environ[name] for name in given.passed}
            env |= {"PYTHONPATH": given.pythonpath} if given.pythonpath else {}
            benches.append(Bench(Path(folder), "mlc_llm", given.python, env, given=given, results=results))
        try:
            measure(benches, models, given, results)
        finally:
            for bench in benches:
                bench.pool.close()
    if given.json:
        print(json.dumps(results.records))
    else:
        for bench in benches:
            show(bench.name, results.table(bench.name), given)
    return 0


class Results:
    """Figures by step, in memory and, where there is one, in a file that has a line for each step."""

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path, self.setting = path, setting
        self.records: list[dict[str, Any]] = []
        if path is not None and path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.records = [each for each in lines if each["setting"] == setting]

    def has(self, step: Step) -> bool:
        return any((each["toolchain"], each["model"], each["round"]) == step.name for each in self.records)

    def add(self, step: Step, figures: dict[str, Any]) -> None:
        toolchain_, model, number = step.name
        self.records.append(
            {"setting": self.setting, "toolchain": toolchain_, "model": model, "round": number, **figures}
        )
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.records[-1]) + "\n")

    def table(self, toolchain_: str) -> dict[str, list[dict[str, Any]]]:
        """Model to its rounds, without those that could not be compiled."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in self.records:
            if each["toolchain"] == toolchain_ and "refused" not in each:
                found.setdefault(each["model"], []).append(each)
        return found


@dataclasses.dataclass(frozen=True)
class Step:
    """Something that is measured as a whole."""

    bench: Bench
    model: str
    number: int
    seconds: float

    @property
    def name(self) -> tuple[str, str, int]:
        return self.bench.name, self.model, self.number


def plan(benches: list[Bench], models: dict[str, bytes], given: argparse.Namespace, results: Results) -> list[Step]:
    """What is left to do, the most telling first."""
    native = given.target == "cpu"
    refused = {(each["toolchain"], each["model"]) for each in results.records if "refused" in each}

    def plain(bench: Bench, model: str) -> float:
        return of(PLAIN[bench.name], model)[not native]

    def of(known: dict[str, Any], model: str) -> Any:
        return next(value for name, value in known.items() if model.startswith(name))

    steps = []
    for number in range(given.runs):
        for bench in benches:
            taken = [model for model in models if (bench.name, model) not in refused and bench.may(models[model])]
            for model in taken:
                proof = 0 if number or given.no_proof else of(PROOF, model)
                steps.append(
                    Step(bench, model, number, plain(bench, model) * (1 + (number == 0) + FIRST + AGAIN) + proof)
                )
            if number == 0 and len(taken) > 1:
                seconds = sum(plain(bench, model) for model in taken) * (FIRST + AGAIN)
                steps.append(Step(bench, CHAIN, 0, seconds))
    return [step for step in steps if not results.has(step)]


def measure(benches: list[Bench], models: dict[str, bytes], given: argparse.Namespace, results: Results) -> None:
    steps = plan(benches, models, given, results)
    expected = sum(step.seconds for step in steps)
    say(f"{len(steps)} steps, about {expected / 60:.0f} min on 2 quiet cores; {len(results.records)} are measured")
    began, pace, done = time.monotonic(), 1.0, 0.0
    for place, step in enumerate(steps):
        passed = time.monotonic() - began
        if given.minutes and passed + step.seconds * pace > given.minutes * 60:
            say(f"{' '.join(map(str, step.name))}: left out, it would end after {given.minutes:g} min")
            continue
        try:
            figures = step.bench.chain(models) if step.model == CHAIN else step.bench.one(step, models[step.model])
        except (JitError, Refused) as error:
            say(f"{' '.join(map(str, step.name))}: left out: {error}")
            figures = {"refused": str(error)}
        if step.model != CHAIN or "refused" not in figures:
            results.add(step, figures)
        done += step.seconds
        pace = (time.monotonic() - began) / done
        left = sum(each.seconds for each in steps[place + 1 :]) * pace
        say(f"{place + 1} of {len(steps)} steps, {(time.monotonic() - began) / 60:.1f} min; about {left / 60:.0f} left")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Done:
    """One compile."""

    wall: float
    library: Path
    report: kernels.KernelReport
    identity: Identity


class Bench:
    """One toolchain."""

    def __init__(
        self, folder: Path, name: str, python: str, env: dict[str, str], *, given: argparse.Namespace, results: Results
    ) -> None:
        self.folder, self.name, self.python, self.env, self.given = folder / name, name, python, env, given
        self.folder.mkdir()
        self.results = results
        self.identifier = Identifier(self.folder / "identity")
        self.pool = WarmCompilers(most=0 if given.cold else 1, idle=7200, memory_free=lambda: 1 << 62)
        self.number = 0
        self.target = given.target
        if given.target != "cpu" and not given.target.startswith("{"):
            target = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": given.target}
            self.target = json.dumps({**target, "host": target})  # without one, that is this CPU

    def may(self, config: bytes) -> bool:
        """Whether it is worth a try."""
        facts = json.loads(config)
        return self.name != "tvm" or bool(facts["quantization"].startswith("q0"))

    def one(self, step: Step, config: bytes) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            store = KernelStore(Path(name), limit=ROOM)
            alone = self.alone(step.model, config)
            plain = self.compile(step.model, config, {}, None) if step.number == 0 else None
            first = self.compile(step.model, config, {}, store)
            again = self.compile(step.model, config, CHANGED, store)
        found: dict[str, Any] = {"alone": alone, "first": first.wall, "overrides": again.wall}
        found |= {"kernels": first.report.kernels, "reused": len(again.report.reused) / max(1, again.report.kernels)}
        if plain is not None:
            found["plain"] = plain.wall
            found["size"] = first.library.stat().st_size / plain.library.stat().st_size
            if not self.given.no_proof:
                found |= self.equality(plain, first, config)
                found |= self.speed(plain.library, first.library)
        return found

    def chain(self, models: dict[str, bytes]) -> dict[str, Any]:
        taken = [model for model in models if model in self.results.table(self.name)]
        if not taken:
            raise Refused("none of its models is measured yet")
        found: dict[str, Any] = {"models": taken}
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            store = KernelStore(Path(name), limit=ROOM)
            for kind, overrides in (("first", {}), ("again", CHANGED)):
                done = {model: self.compile(model, models[model], overrides, store) for model in taken}
                found[kind] = sum(each.wall for each in done.values())
                found[f"{kind} reused"] = {
                    model: len(each.report.reused) / max(1, each.report.kernels) for model, each in done.items()
                }
        return found

    def alone(self, model: str, config: bytes) -> float:
        """Seconds of the compiler's command line, as a user's shell runs it."""
        identity, place = self.prepare(config, {})
        chain = toolchain(identity.toolchain.name)
        command = chain.command(
            identity.job, scratch=place / "scratch", output=place / "lib.so", cores=self.given.cores
        )
        argv = list(command.argv)
        if self.given.target == "cpu" and self.name == "mlc_llm":
            argv[argv.index("--device") + 1] = "cpu"
        began = time.perf_counter()
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, cwd="/", capture_output=True, text=True, check=False
        )
        wall = time.perf_counter() - began
        if done.returncode:
            raise Refused(chain.root_cause(done.stderr) or done.stderr[-300:].strip().replace("\n", " | "))
        say(f"  {self.name} {model} alone: {wall:.1f} s")
        return wall

    def prepare(self, config: bytes, overrides: dict[str, Any]) -> tuple[Identity, Path]:
        """What is compiled, and a folder for it."""
        request = JitRequest(
            id=1,
            config=config,
            overrides=overrides,
            device=self.target,
            python=self.python,
            toolchain="tvm" if self.name == "tvm" else "mlc_llm",
            environment={**collect({"PATH": os.environ["PATH"]}), **self.env},
        )
        identity = self.identifier.identify(request)
        self.number += 1
        place = self.folder / str(self.number)
        (place / "scratch").mkdir(parents=True)
        (place / "new").mkdir()
        return identity, place

    def compile(self, model: str, config: bytes, overrides: dict[str, Any], store: KernelStore | None) -> Done:
        identity, place = self.prepare(config, overrides)
        library = place / "lib.so"
        chain = toolchain(identity.toolchain.name)
        command = chain.command(identity.job, scratch=place / "scratch", output=library, cores=self.given.cores)
        if store is not None:
            command = kernels.accelerated(
                command,
                store=store.root,
                new=place / "new",
                identity=build_of(identity.toolchain),
                workers=self.given.cores,
            )
        loading = [0.0, 0.0]

        def on_loading(begins: bool) -> None:
            now = time.perf_counter()
            loading[:] = (loading[0], now) if begins else (loading[0] + now - loading[1], 0.0)

        began = time.perf_counter()
        common: dict[str, Any] = {"log": place / "log", "on_line": lambda _: None, "stop": StopSignal()}
        if store is None:
            outcome = run(command, Limits(), **common)
        else:
            kind = Kind(self.name, "", lambda own: chain.warm(identity.job, folder=own), lambda: True)
            outcome = self.pool.run(command, kind, Limits(), loading=on_loading, **common)
        wall = time.perf_counter() - began - loading[0]
        if not outcome.succeeded:
            raise Refused(chain.root_cause(outcome.log_tail) or outcome.log_tail[-300:].strip().replace("\n", " | "))
        report = kernels.read_report(place / "new")
        if store is not None:
            if report.way != "kernels":
                raise Refused(f"not compiled apart: {report.why}")
            store.take_in(place / "new", report)
        what = "plain" if store is None else f"apart, {len(report.reused)} of {report.kernels} reused"
        say(f"  {self.name} {model} {what}: {wall:.1f} s, {outcome.cpu_seconds:.1f} s of processor time")
        return Done(wall, library, report, identity)

    def equality(self, plain: Done, apart: Done, config: bytes) -> dict[str, Any]:
        """Every function that can be called, with the same random inputs, bit for bit."""
        job = plain.identity.job
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            found = compare(
                job.python,
                plain.library,
                apart.library,
                config=config,
                environment=job.environment,
                scratch=Path(name),
                cores=self.given.cores,
            )
        compared = sum(each.get("verdict") == "equal" for each in found.functions.values())
        say(f"  {self.name}: {compared} functions and kernels equal{f'; {found.why}' if found.why else ''}")
        return {"equal": found.equal, "compared": compared}

    def speed(self, plain: Path, apart: Path) -> dict[str, float]:
        """Prefill and decode in a process of each library, in turn: medians of their medians, and plain's spread."""
        found: dict[str, list[list[float]]] = {"plain": [], "apart": []}
        for _ in range(3):
            for name, library in (("plain", plain), ("apart", apart)):
                env = {**os.environ, **self.env, "TVM_NUM_THREADS": str(self.given.cores)}
                argv = [self.python, "-P", str(SPEED), str(library)]
                done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=False)
                if done.returncode:
                    say(f"  {self.name}: not timed: {done.stderr.strip().splitlines()[-1:]}")
                    return {}
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
        row = {}
        for column, name in enumerate(("prefill", "decode")):
            plains, aparts = ([each[column] for each in found[way]] for way in ("plain", "apart"))
            row[name] = statistics.median(aparts) / statistics.median(plains)
            row[f"{name} spread"] = (max(plains) - min(plains)) / statistics.median(plains) / 2
        return row


class Refused(Exception):  # noqa: N818 - it is no error of the benchmark
    """A model that this toolchain can't compile."""


def show(name: str, found: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> None:
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    how = "each in a process of its own" if given.cold else "first and overrides in a child of a loaded compiler"
    print(f"\n{name}, target {given.target}, {cpus} CPUs, load {load:.1f}; medians in seconds; {how}\n")
    print("| model | runs | alone | plain, once | first | to alone | overrides | to alone | kernels | reused |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    alone = {}
    models = {model: rounds for model, rounds in found.items() if model != CHAIN}
    for model, rounds in models.items():
        row = {kind: statistics.median(each[kind] for each in rounds) for kind in ("alone", "first", "overrides")}
        alone[model] = row["alone"]
        once = next((f"{each['plain']:.1f}" for each in rounds if "plain" in each), "not measured")
        goal = 0.4 if model.startswith("tiny") else 0.5
        times = f"{row['alone']:.1f} | {once} | {row['first']:.1f} | {against(row['first'] / row['alone'], goal)}"
        times += f" | {row['overrides']:.1f} | {against(row['overrides'] / row['alone'], 0.35)}"
        print(f"| {model} | {len(rounds)} | {times} | {rounds[0]['kernels']} | {rounds[0]['reused']:.0%} |")
    if not given.no_proof:
        print("\n| library | size to plain | functions equal, bit for bit | prefill to plain | decode to plain |")
        print("|---|---|---|---|---|")
    for model, rounds in models.items() if not given.no_proof else ():
        row = next((each for each in rounds if each["round"] == 0), rounds[0])
        equal = {True: f"all {row.get('compared')}", False: "DIFFERENT"}.get(row.get("equal"), "not compared")
        speeds = " | ".join(
            f"{row[each]:.2f} (plain's own ± {row[f'{each} spread']:.2f})" if each in row else "not timed"
            for each in ("prefill", "decode")
        )
        print(f"| {model} | {against(row['size'], 1.05, 3)} | {equal} | {speeds} |")
    for chain in found.get(CHAIN, ()):
        whole = sum(alone[model] for model in chain["models"])
        first, again = chain["first"], chain["again"]
        print(f"\nall, one after another, one store: {first:.1f} s, {first / whole:.2f} of {whole:.1f} s alone")
        print(f"all again, overrides changed: {again:.1f} s, {again / whole:.2f}")
        for model in chain["models"]:
            shares = [f"{chain[f'{kind} reused'][model]:.0%}" for kind in ("first", "again")]
            print(f"  {model}: {shares[0]} of its kernels reused, then {shares[1]}")


def against(ratio: float, goal: float, places: int = 2) -> str:
    """A ratio, with the goal beside it where it is missed."""
    return f"{ratio:.{places}f}" + ("" if ratio <= goal else f" (goal {goal})")


if __name__ == "__main__":
    sys.exit(main())
