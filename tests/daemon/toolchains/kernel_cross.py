"""A model for another machine, linked by that machine's compiler; kernels apart where STORE is not ``-``.

    python kernel_cross.py CONFIG TARGET LIBRARY STORE CXX

A helper of test_kernels_cross.py. Prints how it was done.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
from pathlib import Path

TOOLCHAINS = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains"
sys.path[:0] = [str(TOOLCHAINS / "tvm/inside"), str(TOOLCHAINS / "kernels/inside")]

from mlc_jitd_kernels import hook
from mlc_jitd_kernels.report import Report
from mlc_jitd_tvm import config as configs
from mlc_jitd_tvm import pipeline, targets


def main() -> None:
    config, target, library, store, cxx = sys.argv[1:]
    report = Report()
    if store != "-":
        hook.install(hook.Settings(store, str(Path(library).parent), "a TVM", 2), report)
    parsed = configs.parse(Path(config).read_bytes(), "")
    pipeline.compile_model(parsed, targets.parse(target)).export_library(library, cc=cxx)
    print(json.dumps({"way": report.way, "kernels": report.kernels}))


if __name__ == "__main__":
    main()
