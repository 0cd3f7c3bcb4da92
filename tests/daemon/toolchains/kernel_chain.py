"""A chain of small operators as a library, run at once; its last kernel by symbol has `noalias`, some others have not.

    python kernel_chain.py LIBRARY

A helper of test_kernels.py. Prints the digest of what it computes.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import tvm
from tvm import relax
from tvm.tirx import PrimFunc

LINKS = 24


def main() -> None:
    builder = relax.BlockBuilder()
    given = relax.Var("given", relax.TensorType((4, 6), "float32"))
    ones = relax.const(np.ones((4, 1), "float32"))
    with builder.function("main", [given]):
        with builder.dataflow():
            value = given
            for link in range(LINKS):
                wider = builder.emit(relax.op.concat([value, ones], axis=1))
                soft = builder.emit(relax.op.nn.softmax(wider, axis=-1))
                value = builder.emit(relax.op.tanh(soft) if link % 2 else relax.op.sqrt(soft))
            out = builder.emit_output(value)
        builder.emit_func_output(out)
    mod = relax.transform.LegalizeOps()(builder.get())
    for name, function in list(mod.functions.items()):
        if isinstance(function, PrimFunc):
            restricted = not name.name_hint.startswith("concat")
            mod[name] = (
                function.with_attr("tirx.noalias", True) if restricted else function.without_attr("tirx.noalias")
            )
    target = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64"}
    relax.build(mod, target=tvm.target.Target(target)).export_library(sys.argv[1])
    vm = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
    numbers = np.random.default_rng(3).random((4, 6), "float32")
    print(hashlib.sha256(vm["main"](tvm.runtime.tensor(numbers)).numpy().tobytes()).hexdigest())


main()
