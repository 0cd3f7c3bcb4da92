"""Which compilers the caller's interpreter has, which would be asked, and whether their libraries can be linked."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import variables
from mlc_jit.errors import JitError, ToolchainNotFoundError
from mlc_jitd.doctor.finding import Finding, problem
from mlc_jitd.identity.memory import Memory
from mlc_jitd.identity.stamps import Checker
from mlc_jitd.identity.toolchain import ToolchainFinder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlc_jit.messages import ToolchainChoice
    from mlc_jitd.doctor.finding import Patient

LINKERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")
"""What ``tvm.support.cc`` looks for, after CXX."""


def toolchain(patient: Patient) -> Iterator[Finding]:
    """What the interpreter can import, and what an ordinary request would be compiled with."""
    python = patient.environ.get("MLC_JITD_PYTHON") or sys.executable
    wanted = patient.environ.get("MLC_JITD_TOOLCHAIN") or "auto"
    if wanted not in ("auto", "mlc_llm", "tvm"):
        yield Finding(
            check="toolchain",
            level="problem",
            found=f"MLC_JITD_TOOLCHAIN={wanted!r} is none of auto, mlc_llm, tvm",
            remedy="Correct or unset MLC_JITD_TOOLCHAIN.",
        )
        return
    environment = variables.collect(patient.environ)
    with tempfile.TemporaryDirectory() as folder:
        finder = ToolchainFinder(Memory(Path(folder)), Checker())
        try:
            chosen = finder.find(python, "auto" if wanted == "auto" else _choice(wanted), environment)
        except JitError as error:
            yield problem("toolchain", error)
            return
        others = _has(finder, python, "tvm" if chosen.name == "mlc_llm" else "mlc_llm", environment)
    versions = ", ".join(f"{name} {version}" for name, version in chosen.versions)
    limits = "" if chosen.name == "mlc_llm" else ": Llama-family models, unquantised, for CPUs"
    yield Finding(
        check="toolchain",
        level="ok",
        found=f"{python} has {versions}",
        follows=f"requests are compiled by {chosen.name}{limits}"
        + (f"; {others} would be there too (MLC_JITD_TOOLCHAIN={others})" if others else ""),
        facts={"python": python, "chosen": chosen.name, "versions": dict(chosen.versions), "build": chosen.fingerprint},
    )


def linker(patient: Patient) -> Iterator[Finding]:
    """What turns object files into a library."""
    names = [patient.environ.get("CXX", ""), *LINKERS]
    path = patient.environ.get("PATH", os.defpath)
    found = next((where for name in names if name and (where := shutil.which(name, path=path))), None)
    yield Finding(
        check="linker",
        level="ok" if found else "problem",
        found=found or "no C++ compiler is on the PATH, which TVM links libraries with",
        remedy="" if found else "Install g++ (apt-get install g++) or clang, or set CXX.",
        facts={"path": found or ""},
    )


def _choice(text: str) -> ToolchainChoice:
    return "tvm" if text == "tvm" else "mlc_llm"


def _has(finder: ToolchainFinder, python: str, name: ToolchainChoice, environment: Mapping[str, str]) -> str:
    try:
        return finder.find(python, name, environment).name
    except ToolchainNotFoundError:
        return ""
