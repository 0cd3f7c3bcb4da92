"""nvcc's answers are kept by what it was asked: a stand-in's, and its own where there is one. No GPU is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains import kernels

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
    def __init__(self, folder: Path, nvcc: str) -> None:
        self.folder = folder
        self.store = KernelStore(folder, limit=1 << 20)
        (folder / "bin").mkdir()
        (folder / "bin/nvcc").write_text(nvcc)
        (folder / "bin/nvcc").chmod(0o755)
        (folder / "ask.py").write_text(ASK)
        self.number = 0

    def ask(self, *questions: object, identity: str = "nvcc 13", **environ: str) -> list[str]:
        answers: list[str] = json.loads(self.run("ask.py", json.dumps(questions), identity=identity, **environ))
        return answers

    def run(self, script: str, *arguments: str, identity: str = "nvcc 13", **environ: str) -> str:
        self.number += 1
        new = self.folder / f"new-{self.number}"
        new.mkdir()
        launch = [
            sys.executable, "-P", kernels.LAUNCH, "--store", self.store.root, "--new", new, "--identity", "a TVM",
            "--workers", "1", "--device-identity", identity, "--", self.folder / script, *arguments,
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
        return done.stdout

    def calls(self) -> int:
        path = self.folder / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, NVCC.format(python=sys.executable))


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


@pytest.mark.parametrize(
    ("code", "options", "environ"),
    [
        ("code", ["-I", "{inc}"], {}),
        ("code", ["-I{inc}"], {}),
        ("code", ["-include", "{inc}/k.h"], {}),
        ("code", ["--options-file", "{inc}/k.h"], {}),
        ("code", ["{inc}/other.cu"], {}),
        ("code", None, {"CPATH": "{inc}"}),
        ("code", None, {"NVCC_PREPEND_FLAGS": "-O1 -I{inc}"}),
        ("code", None, {"NVCC_APPEND_FLAGS": "'"}),
        ('#include "k.h"\ncode', None, {}),
        ("  #  include K_H\ncode", None, {}),
        ("#include <{inc}/k.h>\ncode", None, {}),
        ("#include <../k.h>\ncode", None, {}),
        ("/* */ #include <k.h>\ncode", None, {}),
        ('#inc\\\nlude "k.h"\ncode', None, {}),
        ("%:include <k.h>\ncode", None, {}),
        ("code", ["-Xptxas=--options-file=k.h"], {}),
        ("code", ["--ptxas-options=-optf,k"], {}),
    ],
)
def test_what_may_bring_in_a_file_is_always_asked(
    host: Host, code: str, options: list[str] | None, environ: dict[str, str]
) -> None:
    inc = str(host.folder)
    words = options and [word.format(inc=inc) for word in options]
    variables = {name: value.format(inc=inc) for name, value in environ.items()}
    for _ in range(2):
        host.ask([code, words, SM_90], **variables)
    assert host.calls() == 2


def test_what_brings_in_only_nvccs_own_headers_is_known(host: Host) -> None:
    code = "#include <cuda_fp16.h>\n#include <cuda/std/limits>\ncode"
    for _ in range(2):
        host.ask([code, ["-lineinfo", "-DN=1"], SM_90], NVCC_PREPEND_FLAGS="-O1 --expt-relaxed-constexpr")
    assert host.calls() == 1


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


COUNTED = """#!/bin/sh
echo call >> "$CALLS"
exec {nvcc} "$@"
"""

KERNEL = """
#include <cuda_fp16.h>
extern "C" __global__ void doubled(half* a, float* b) { b[threadIdx.x] = __half2float(a[threadIdx.x]) * 2.0f; }
"""

ASK_FOR_CUBIN = """
import sys
from tvm.support import nvcc
from tvm.target import Target
with Target({"kind": "cuda", "arch": "sm_90"}):
    print(nvcc.compile_cuda(sys.argv[1], "cubin", compiler="nvcc").hex())
"""

COMPILE = """
import sys
import tvm
from tvm.script import ir as I, tirx as T
from tvm.target import Target

@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def doubled(A: T.Buffer((1024,), "float32"), B: T.Buffer((1024,), "float32")):
        for i in T.thread_binding(8, thread="blockIdx.x"):
            for j in T.thread_binding(128, thread="threadIdx.x"):
                with T.sblock("b"):
                    v = T.axis.spatial(1024, i * 128 + j)
                    B[v] = A[v] * T.float32(2)

if tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is None:
    print("no runtime")
else:
    host = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": sys.argv[2]}
    with Target({"kind": "cuda", "arch": "sm_90"}, host=host) as target:
        tvm.compile(Module, target).export_library(sys.argv[1])
"""

FATBIN = bytes.fromhex("50ed55ba")
EM_CUDA = 190


@pytest.fixture
def real(tmp_path: Path) -> Host:
    nvcc = shutil.which("nvcc")
    if nvcc is None or shutil.which("g++") is None:
        pytest.skip("needs nvcc and g++ in PATH; nvcc needs no GPU")
    return Host(tmp_path, COUNTED.format(nvcc=nvcc))


def test_real_nvcc_is_asked_once_for_a_cubin(real: Host) -> None:
    (real.folder / "cubin.py").write_text(ASK_FOR_CUBIN)
    first = bytes.fromhex(real.run("cubin.py", KERNEL))
    assert first[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", first, 18) == (EM_CUDA,)
    assert b".text.doubled" in first
    assert b"-arch sm_90" in first
    assert bytes.fromhex(real.run("cubin.py", KERNEL)) == first
    assert real.calls() == 1
    assert bytes.fromhex(real.run("cubin.py", KERNEL.replace("2.0f", "3.0f"))) != first
    assert real.calls() == 2


def test_a_library_for_sm_90_has_the_code_that_real_nvcc_made_once(real: Host) -> None:
    (real.folder / "compile.py").write_text(COMPILE)
    driverless = f"{stand_in_driver(real.folder)}:{toolkit() / 'lib64'}:{toolkit() / 'lib'}"
    found = []
    for mcpu in ("x86-64", "x86-64-v2"):
        library = real.folder / f"{mcpu}.so"
        said = real.run("compile.py", str(library), mcpu, LD_LIBRARY_PATH=driverless, TVM_CUDA_COMPILE_MODE="nvcc")
        if "no runtime" in said:
            pytest.skip("this TVM's CUDA runtime can't be loaded with this toolkit, and without it TVM calls no nvcc")
        payload = library.read_bytes()
        assert b"__global__" not in payload, "source is no code"
        found.append(payload[payload.index(FATBIN) :][: 1 << 10])
    assert found[0] == found[1]
    assert (real.calls(), real.store.counters()["nvcc_answers_reused"]) == (1, 1)


def stand_in_driver(folder: Path) -> Path:
    """A folder with a ``libcuda.so.1`` that has every function TVM's runtime wants, and none that does anything."""
    import tvm

    runtime = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    listed = subprocess.run(["nm", "-D", "--undefined-only", runtime], capture_output=True, text=True, check=False)
    wanted = re.findall(r" U (cu[A-Z]\w+)$", listed.stdout, re.MULTILINE)
    if not wanted:
        pytest.skip("this TVM has no CUDA runtime of its own to load")
    (folder / "driver").mkdir()
    (folder / "driver.c").write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in wanted))
    build = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "driver/libcuda.so.1"]
    subprocess.run([*build, folder / "driver.c"], check=True)
    return folder / "driver"


def toolkit() -> Path:
    """Where nvcc says that it lies; a wrapper may stand in PATH."""
    said = subprocess.run(
        ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=True
    )
    found = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)
    assert found is not None
    return Path(found[1]).resolve()
