"""What LLVM's optimiser takes for one kernel by the width of its vectors, with and without the SLP vectoriser.

    python benchmarks/lanes.py [--mcpu emeraldrapids]

The kernel has the form that dlight's CPU schedule gives a product of one row by quantised weights: vectors loaded with
a stride, updated several times in a row. Prints processor seconds, and whether the two objects are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tvm
import tvm.tirx

SOURCE = """
from tvm.script import tirx as T
@T.prim_func(s_tir=True)
def main(W: T.Buffer((16384,), "uint32"), S: T.Buffer((4096,), "float32"), X: T.Buffer((256,), "float32"),
         Y: T.Buffer((512,), "float32")):
    T.func_attr({{"tirx.noalias": True, "global_symbol": "main"}})
    for i in T.parallel({rows}):
        for k in range(32):
            for u in T.unroll({updates}):
                for v in T.vectorized({lanes}):
                    Y[i * {lanes} + v] = Y[i * {lanes} + v] + X[k * 8 + u] * ((T.Cast("float32", T.bitwise_and(
                        T.shift_right(W[(i * {lanes} + v) * 32 + k], T.Cast("uint32", u * 4)), T.uint32(15)
                    )) - T.float32(7)) * S[(i * {lanes} + v) * 8 + k // 4])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mcpu", default="emeraldrapids")
    given = parser.parse_args()
    print("| lanes | updates | s | s, SLP vectoriser off | objects |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for lanes, updates in ((16, 1), (32, 1), (64, 1), (64, 8), (128, 1), (128, 4)):
            kernel = load(Path(folder) / f"kernel_{lanes}_{updates}.py", lanes, updates)
            on, one = generate(kernel, Path(folder), given.mcpu)
            off, other = generate(kernel, Path(folder), given.mcpu, "-vectorize-slp:bool=false")
            print(
                f"| {lanes} | {updates} | {on:.2f} | {off:.2f} | {'same' if one == other else 'different'} |",
                flush=True,
            )


def load(path: Path, lanes: int, updates: int) -> Any:
    path.write_text(SOURCE.format(lanes=lanes, updates=updates, rows=512 // lanes))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def generate(kernel: Any, folder: Path, mcpu: str, *options: str) -> tuple[float, str]:
    """Processor seconds of code generation, and the object's digest."""
    found: list[tuple[float, str]] = []
    build = sys.modules["tvm.tirx.build"]
    own = build.codegen_build

    def timed(mod: Any, target: Any) -> Any:
        began = time.process_time()
        made = own(mod, target)
        made.write_to_file(str(folder / "kernel.o"))
        found.append((time.process_time() - began, hashlib.sha256((folder / "kernel.o").read_bytes()).hexdigest()))
        return made

    target = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": mcpu}
    build.codegen_build = timed
    try:
        tvm.compile(kernel, tvm.target.Target({**target, "cl-opt": list(options)} if options else target))
    finally:
        build.codegen_build = own
    return found[-1]


if __name__ == "__main__":
    main()
