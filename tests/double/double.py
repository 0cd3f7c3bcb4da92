"""The compiler's double, for tests: a config that commands it, and the environment that puts it in place.

The double is a package named ``mlc_llm`` that tests put on PYTHONPATH, so that everything else runs for real: the
probe, the resolver, the supervisor, the command line. What it can be told is listed in
``packages/mlc_llm/cli/compile.py``. Use it from a test through the ``double`` fixture of the test's conftest, or load
this file by its path.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).parent / "packages"
PASSED = ("MLC_DOUBLE_LOG", "MLC_DOUBLE_LIBRARY", "MLC_DOUBLE_RESOLVE", "MLC_DOUBLE_ARCH")

BASE: dict[str, Any] = {
    "version": "0.1.0",
    "model_type": "llama",
    "quantization": "q4f32_1",
    "model_config": {"hidden_size": 64, "num_hidden_layers": 2, "context_window_size": 128},
    "vocab_size": 512,
    "context_window_size": 128,
    "temperature": 0.7,
}


def config(told: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """The bytes of a config that makes the double do as told; ``fields`` replace or add top-level ones."""
    found = {**BASE, **fields}
    if told:
        found["double"] = told
    return json.dumps(found).encode()


def environment(log: Path | None = None, library: Path | None = None, **more: str) -> dict[str, str]:
    """What a client's environment needs for its compiler to be the double."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLC_JITD_PASS_ENV": ",".join((*PASSED, "PYTHONDONTWRITEBYTECODE")),
    }
    if log is not None:
        env["MLC_DOUBLE_LOG"] = str(log)
    if library is not None:
        env["MLC_DOUBLE_LIBRARY"] = str(library)
    return {**env, **more}


def install(site: Path) -> Path:
    """A copy of the double's packages that a test may edit; returns the folder for PYTHONPATH."""
    shutil.copytree(PACKAGES, site, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return site


def build_library(folder: Path) -> Path:
    """A small shared library that really loads: ``answer()`` returns 42. Needs a C compiler."""
    source, library = folder / "double.c", folder / ("double.dylib" if sys.platform == "darwin" else "double.so")
    source.write_text("int answer(void) { return 42; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def events(log: Path) -> list[tuple[int, str]]:
    """The double's own log: (pid, event) in order; an empty list where none was written."""
    if not log.exists():
        return []
    rows = (line.partition(" ") for line in log.read_text().splitlines())
    return [(int(pid), event) for pid, _, event in rows]


def overlaps(log: Path) -> bool:
    """Whether two compiles ever ran at the same time."""
    running: set[int] = set()
    for pid, event in events(log):
        if event == "start":
            running.add(pid)
            if len(running) > 1:
                return True
        elif event == "done":
            running.discard(pid)
    return False
