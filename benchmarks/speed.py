"""Seconds of a prefill of 48 tokens and of a decode, medians, as JSON; a part of compile.py, in a toolchain's Python.

PYTHON -P benchmarks/speed.py LIBRARY
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import tvm
from tvm import relax

FEWEST, MOST, SECONDS = 2, 7, 15.0
"""Prefills, each with ten decodes, and when to end between the two."""

VOCABULARY = 512
"""Where the library does not say how large it is."""


class Model:
    """A library with random weights."""

    def __init__(self, path: str) -> None:
        self.vm = relax.VirtualMachine(tvm.runtime.load_module(path), tvm.cpu())
        self.call = tvm.get_global_func
        rng = np.random.default_rng(1)
        self.weights = [tvm.runtime.tensor(_weight(rng, each)) for each in json.loads(self.vm["_metadata"]())["params"]]
        self.cache = self.vm["create_tir_paged_kv_cache"](*(_shape(each) for each in (1, 256, 64, 16, 0)))

    def begin(self) -> None:
        """A new sequence."""
        self.call("vm.builtin.kv_state_clear")(self.cache)
        self.call("vm.builtin.kv_state_add_sequence")(self.cache, 0)

    def step(self, name: str, tokens: int) -> float:
        """Seconds of one call."""
        embeds = self.vm["embed"](tvm.runtime.tensor(np.arange(tokens, dtype="int32")), self.weights)
        embeds = self.call("vm.builtin.reshape")(embeds, _shape(1, tokens, embeds.shape[1]))
        self.call("vm.builtin.kv_state_begin_forward")(self.cache, _shape(0), _shape(tokens))
        began = time.perf_counter()
        self.vm[name](embeds, self.cache, self.weights)
        took = time.perf_counter() - began
        self.call("vm.builtin.kv_state_end_forward")(self.cache)
        return took


def main() -> None:
    model = Model(sys.argv[1])
    prefill, decode = [], []
    end = time.monotonic() + SECONDS
    while len(prefill) < FEWEST or (len(prefill) < MOST and time.monotonic() < end):
        model.begin()
        prefill.append(model.step("prefill", 48))
        decode += [model.step("decode", 1) for _ in range(10)]
    print(json.dumps([statistics.median(prefill), statistics.median(decode)]))


def _weight(rng: Any, fact: dict[str, Any]) -> Any:
    extents = [VOCABULARY if isinstance(extent, str) else extent for extent in fact["shape"]]
    if "int" in fact["dtype"]:
        return rng.integers(0, np.iinfo(fact["dtype"]).max, extents, fact["dtype"])
    return ((rng.random(extents, "float32") - 0.5) * 0.04).astype(fact["dtype"])


def _shape(*extents: int) -> Any:
    return tvm.runtime.ShapeTuple(extents)


if __name__ == "__main__":
    main()
