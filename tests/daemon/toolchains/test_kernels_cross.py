"""Kernels compiled apart for another machine: the same floating-point instructions, one for one. None is run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("tvm")
sys.path.insert(0, str(Path(__file__).parent))

import test_tvm_compile as tvm_compile

TRIPLE = "aarch64-linux-gnu"
CONVERSIONS = {"fmov"}
"""Each object brings its own `__extendhfsf2` and `__truncsfhf2`, which move between kinds of registers."""

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.timeout(200),
    pytest.mark.skipif(shutil.which(f"{TRIPLE}-g++") is None, reason=f"needs {TRIPLE}-g++ to link for that machine"),
]


def arithmetic(library: Path) -> Counter[str]:
    """How often the library has each floating-point instruction."""
    text = subprocess.run([f"{TRIPLE}-objdump", "-d", library], capture_output=True, text=True, check=True).stdout
    return Counter(
        {
            name: count
            for name, count in Counter(re.findall(r"\t(f[a-z]\w+)\t", text)).items()
            if name not in CONVERSIONS
        }
    )


def content(library: Path) -> int:
    """Bytes of all sections. The file is a multiple of such a machine's pages of 64 KiB, and some."""
    text = subprocess.run([f"{TRIPLE}-size", "-A", library], capture_output=True, text=True, check=True).stdout
    return int(text.split()[-1])


def test_an_arm_library_has_the_instructions_of_one_compiled_whole(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tvm_compile.chat_config(**tvm_compile.MODELS["llama"])))
    target = json.dumps({"kind": "llvm", "mtriple": TRIPLE})
    script = Path(__file__).with_name("kernel_cross.py")
    found, said = [], []
    for name, store in (("plain", "-"), ("apart", str(tmp_path / "store"))):
        library = tmp_path / name / "lib.so"
        library.parent.mkdir()
        done = subprocess.run(
            [sys.executable, "-P", script, config, target, library, store, f"{TRIPLE}-g++"],
            env={**os.environ, "TVM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(json.loads(done.stdout))
        found.append(arithmetic(library))
    assert [each["way"] for each in said] == ["", "kernels"]
    assert said[1]["kernels"] > 15
    assert content(tmp_path / "apart" / "lib.so") <= 1.05 * content(tmp_path / "plain" / "lib.so")
    assert sum(found[0].values()) > 500
    assert found[1] == found[0]
