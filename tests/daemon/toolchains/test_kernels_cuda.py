"""nvcc's answers are kept by what it was asked. A stand-in plays nvcc: it needs no GPU to be asked for sm_90."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tvm")
pytestmark = [pytest.mark.tvm, pytest.mark.timeout(120)]

NVCC = """#!{python}
import os, sys
open(os.environ["CALLS"], "a").write("call\\n")
source, result = sys.argv[-1], sys.argv[-2]
text = open(source).read()
if "broken" in text:
    sys.exit("nvcc: broken source")
open(result, "w").write(f"fatbin of {{text}} {{[word for word in sys.argv[1:-2]]}}")
"""

ASK = """
import json, sys
from tvm.support import nvcc
from tvm.target import Target
said = []
with Target({"kind": "cuda", "arch": "sm_90"}):
    for code, options, arch in json.loads(sys.argv[1]):
        try:
            said.append(nvcc.compile_cuda(code, "fatbin", arch, options, compiler="nvcc").decode())
        except RuntimeError as error:
            said.append("failed")
print(json.dumps(said))
"""


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = KernelStore(folder, limit=1 << 20)
        (folder / "bin").mkdir()
        (folder / "bin/nvcc").write_text(NVCC.format(python=sys.executable))
        (folder / "bin/nvcc").chmod(0o755)
        (folder / "ask.py").write_text(ASK)
        self.number = 0

    def ask(self, *questions: object, identity: str = "nvcc 13", **environ: str) -> list[str]:
        self.number += 1
        new = self.folder / f"new-{self.number}"
        new.mkdir()
        launch = [
            sys.executable, "-P", kernels.LAUNCH, "--store", self.store.root, "--new", new, "--identity", "a TVM",
            "--workers", "1", "--device-identity", identity, "--", self.folder / "ask.py", json.dumps(questions),
        ]  # fmt: skip
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self.folder / "calls"),
            **environ,
        }
        done = subprocess.run(launch, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.store.take_in(new, kernels.read_report(new))
        answers: list[str] = json.loads(done.stdout)
        return answers

    def calls(self) -> int:
        path = self.folder / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


SM_90 = ["-gencode", "arch=compute_90,code=sm_90"]


def test_nvcc_is_asked_once_for_the_same(host: Host) -> None:
    first = host.ask(["code", None, None], ["code", None, SM_90])
    assert "arch=compute_90,code=sm_90" in first[0]
    assert host.ask(["code", None, None], ["code", None, SM_90]) == first
    assert host.calls() == 2, "within one compile the first answer is not known yet"
    counters = host.store.counters()
    assert (counters["nvcc_calls"], counters["nvcc_answers_reused"]) == (2, 2)


def test_whatever_is_different_is_asked(host: Host) -> None:
    host.ask(["code", None, SM_90])
    others = [
        host.ask(["other", None, SM_90]),
        host.ask(["code", ["-lineinfo"], SM_90]),
        host.ask(["code", None, ["-gencode", "arch=compute_80,code=sm_80"]]),
        host.ask(["code", None, SM_90], NVCC_APPEND_FLAGS="-G"),
        host.ask(["code", None, SM_90], CPATH="/elsewhere"),
        host.ask(["code", None, SM_90], TVM_CUDA_NVCC_NO_FAST_MATH="1"),
        host.ask(["code", None, SM_90], TVM_CUDA_PTXAS_REG_LEVEL="5"),
        host.ask(["code", None, SM_90], identity="nvcc 14"),
    ]
    assert host.calls() == 1 + len(others)


def test_a_failure_is_not_kept_and_a_damaged_answer_is_asked_for_anew(host: Host) -> None:
    assert host.ask(["broken", None, SM_90]) == ["failed"]
    assert host.ask(["broken", None, SM_90]) == ["failed"]
    assert host.calls() == 2
    first = host.ask(["code", None, SM_90])
    (path,) = (path for path in host.store.root.rglob("*") if path.is_file())
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-3])
    assert host.ask(["code", None, SM_90]) == first
    assert host.calls() == 4


def test_without_knowing_the_host_tools_nothing_is_kept(host: Host) -> None:
    host.ask(["code", None, SM_90], identity="")
    host.ask(["code", None, SM_90], identity="")
    assert host.calls() == 2
