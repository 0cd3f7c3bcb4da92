"""A model as an archive of objects with a prefix, as for phones; linked here into one library and run.

    python kernel_archive.py CONFIG TARGET FOLDER STORE

A helper of test_kernels.py. Kernels are compiled apart where STORE is not ``-``. Prints the digest of what it computes.
"""

# ruff: noqa: E402
from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

TOOLCHAINS = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains"
sys.path[:0] = [str(TOOLCHAINS / "tvm/inside"), str(TOOLCHAINS / "kernels/inside")]

import numpy as np
import tvm
from mlc_jitd_kernels import hook
from mlc_jitd_kernels.report import Report
from mlc_jitd_tvm import config as configs
from mlc_jitd_tvm import pipeline, targets
from tvm import relax

PREFIX = "model_a_"


def main() -> None:
    config, target, place, store = sys.argv[1:]
    folder, report = Path(place), Report()
    if store != "-":
        hook.install(hook.Settings(store, place, "a TVM", 2), report)
    own = pipeline._to_bytecode
    pipeline._to_bytecode = lambda mod, facts: own(mod, facts).with_attr("system_lib_prefix", PREFIX)
    parsed = configs.parse(Path(config).read_bytes(), "")
    executable = pipeline.compile_model(parsed, targets.parse(target))
    executable.export_library(str(folder / "lib.tar"))
    with tarfile.open(folder / "lib.tar") as archive:
        archive.extractall(folder / "objects", filter="data")
    objects = sorted(map(str, (folder / "objects").rglob("*.o")))
    subprocess.run(["g++", "-shared", "-fPIC", "-o", folder / "whole.so", *objects], check=True)
    ctypes.CDLL(str(folder / "whole.so"), ctypes.RTLD_GLOBAL)
    library = tvm.runtime.system_lib(PREFIX)
    vm = relax.VirtualMachine(library, tvm.cpu())
    said = hashlib.sha256(json.dumps(json.loads(vm["_metadata"]()), sort_keys=True).encode())
    for array in outputs(vm, json.loads(vm["_metadata"]())):
        said.update(array.tobytes())
    print(
        json.dumps({"digest": said.hexdigest(), "way": report.way, "kernels": report.kernels, "objects": len(objects)})
    )


def outputs(vm: Any, facts: dict[str, Any]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    weights = []
    for param in facts["params"]:
        shape = [131 if isinstance(extent, str) else extent for extent in param["shape"]]
        weights.append(tvm.runtime.tensor((rng.standard_normal(shape) * 0.1).astype(param["dtype"])))
    shape = tvm.runtime.ShapeTuple
    cache = vm["create_tir_paged_kv_cache"](*(shape([each]) for each in (2, 128, 64, 16, 0)))
    call = tvm.get_global_func
    call("vm.builtin.kv_state_add_sequence")(cache, 0)
    found = []
    for name, tokens in (("prefill", [3, 1, 4, 1, 5]), ("decode", [9]), ("decode", [2])):
        embeds = vm["embed"](tvm.runtime.tensor(np.array(tokens, "int32")), weights)
        embeds = call("vm.builtin.reshape")(embeds, shape([1, len(tokens), embeds.shape[1]]))
        call("vm.builtin.kv_state_begin_forward")(cache, shape([0]), shape([len(tokens)]))
        found.append(vm[name](embeds, cache, weights)[0].numpy())
        call("vm.builtin.kv_state_end_forward")(cache)
    return found


if __name__ == "__main__":
    main()
