"""A model's graph with TVM's own script parser and with ours, in turns in one process: processor seconds.

    python benchmarks/parsing.py [--runs 5] [--config mlc-chat-config.json]

The embedded toolchain's graph: its model exported, with the kernels that are written in TVM's script.
"""

# ruff: noqa: E402 - TVM's side is not installed, but beside ours
from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import TINY
from mlc_jitd.toolchains.kernels import LAUNCH
from mlc_jitd.toolchains.tvm import COMPILE

sys.path[:0] = [str(COMPILE.parent), str(LAUNCH.parent)]

import tvm
from mlc_jitd_kernels import parsing
from mlc_jitd_tvm import attention, config, extras, kernels, targets
from mlc_jitd_tvm.model import CausalLM

TARGET = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64-v3"}
PLACES = ((parsing.ENTRY, "inspect"), (parsing.EVALUATOR, "_eval_expr"), (parsing.TREES, "to_doc"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns")
    parser.add_argument("--config", type=Path, help="a model's; a tiny one without it")
    given = parser.parse_args()
    text = given.config.read_bytes() if given.config else json.dumps(TINY).encode()
    graph(text)
    own = [getattr(sys.modules[module], name) for module, name in PLACES]
    parsing.install()
    ours = [getattr(sys.modules[module], name) for module, name in PLACES]
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(given.runs):
        for who, functions in zip(seconds, (own, ours), strict=True):
            for (module, name), function in zip(PLACES, functions, strict=True):
                setattr(sys.modules[module], name, function)
            began = time.process_time()
            graph(text)
            seconds[who].append(time.process_time() - began)
    medians = {who: statistics.median(found) for who, found in seconds.items()}
    print("processor seconds, median of", given.runs)
    for who, median in medians.items():
        print(f"  {who:<10} {median:.2f}")
    print(f"  ratio      {medians['ours'] / medians['plain']:.2f}")


def graph(text: bytes) -> Any:
    parsed, target = config.parse(text, ""), targets.parse(json.dumps(TARGET))
    with target, tvm.transform.PassContext(opt_level=3):
        model = CausalLM(parsed, target)
        mod, _, _ = model.export_tvm(spec=model.specification(), allow_extern=True)
        machine = kernels.machine_of(target)
        return extras.attach(attention.replace_kernels(mod, parsed, machine), parsed, machine)


if __name__ == "__main__":
    main()
