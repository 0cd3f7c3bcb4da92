"""The compilers that mlc-jitd can ask: ``mlc_llm`` and the embedded ``tvm``, behind one protocol.

The host sides import no compiler; the scripts in ``inside/`` folders run in the toolchain's own interpreter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc_jitd.toolchains.base import Command, CompileJob, Stage, Toolchain, compiler_environment
from mlc_jitd.toolchains.inside import probe
from mlc_jitd.toolchains.mlc_llm import MlcLlmToolchain
from mlc_jitd.toolchains.tvm import TvmToolchain

__all__ = [
    "Command",
    "CompileJob",
    "MlcLlmToolchain",
    "Stage",
    "Toolchain",
    "TvmToolchain",
    "compiler_environment",
    "own_sources",
    "resolver",
    "toolchain",
]

_TOOLCHAINS: dict[str, Toolchain] = {made.name: made for made in (MlcLlmToolchain(), TvmToolchain())}
_HERE = Path(__file__).parent

_LINKING = _HERE / "kernels" / "inside"
COMPILING_SOURCES: dict[str, Path] = {"tvm": _HERE / "tvm" / "inside"}
"""Our own code that decides what a library computes, and so belongs to the toolchain's fingerprint."""


def toolchain(name: str) -> Toolchain:
    """The host side of a toolchain. Raises KeyError for a name that is none."""
    return _TOOLCHAINS[name]


def resolver(name: str) -> Path:
    """The script that resolves a device text to a target, for a toolchain's interpreter to run."""
    return _HERE / name / "inside" / "resolve.py"


def own_sources(name: str) -> tuple[list[str], dict[str, list[list[Any]]]]:
    """Digests of our own code inside a toolchain, and the stamps to compare.

    What takes modules apart and links them is to give what the compiler gives, but a mistake in it must not outlive its
    mending: it counts for every toolchain. It has no stamps: with our package replaced, the daemon itself drains.
    """
    stamps = probe.Stamps()
    found = [probe.tree_digest(str(_LINKING), probe.Stamps(), sometimes=False)]
    if folder := COMPILING_SOURCES.get(name):
        found.append(probe.tree_digest(str(folder), stamps, sometimes=False))
    return found, stamps.plain()
