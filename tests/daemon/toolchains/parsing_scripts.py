"""Parses a folder's ``scripts.py`` TVM's own way, then ours twice, in one process, and says where the two differ.

    python parsing_scripts.py FOLDER

A helper of test_parsing.py. Each function there makes one function of TVM's, or fails. Prints JSON: what came of each,
and those of which program, error, output or warnings differ.
"""

# ruff: noqa: E402
from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains/kernels/inside"), sys.argv[1]]

from mlc_jitd_kernels import parsing


def outcome(make: Any) -> tuple[str, str, list[str]]:
    said = io.StringIO()
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        warnings.simplefilter("always")
        try:
            found = make().script()
        except Exception as error:  # noqa: BLE001 - both must raise the same
            found = f"{type(error).__name__}: {error}"
    return found, said.getvalue(), [str(each.message) for each in warned]


def main() -> None:
    scripts = importlib.import_module("scripts")
    every = {name: make for name, make in vars(scripts).items() if name.startswith("script_")}
    own = {name: outcome(make) for name, make in every.items()}
    parsing.install()
    differ = [name for _ in range(2) for name, make in every.items() if outcome(make) != own[name]]
    print(json.dumps({"differ": differ, "own": {name: found for name, (found, *_) in own.items()}}))


main()
