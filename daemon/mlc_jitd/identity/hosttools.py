"""The programs of the host that a compile runs: which they are, their versions, and the files that prove it.

Found as the compiler itself finds them (tvm/support/cc.py, nvcc.py, ndk.py, emcc.py, xcode.py, rocm.py). In the key are
version texts, never places. What does not belong here: packages of the toolchain's interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jit.variables import is_keyed
from mlc_jitd.identity.stamps import Evidence, Stamp, stamp
from mlc_jitd.toolchains.inside import probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jitd.identity.memory import Memory

CC_NAMES: tuple[str, ...] = ("g++", "gcc", "clang++", "clang", "c++", "cc")
"""In TVM's order: a name is looked for in the whole PATH before the next one is."""

ABSENT = "absent"
SECONDS = 20.0

WASM_PARTS: tuple[tuple[str, str], ...] = (
    ("MLC_LLM_SOURCE_DIR", "web/dist/wasm/mlc_wasm_runtime.bc"),
    ("TVM_HOME", "web/dist/wasm/wasm_runtime.bc"),
    ("TVM_HOME", "web/dist/wasm/tvmjs_support.bc"),
    ("TVM_HOME", "web/dist/wasm/webgpu_runtime.bc"),
)


@dataclass(frozen=True, slots=True)
class HostTools:
    """What of the host takes part in a compile.

    Attributes:
        versions: Tool to version text, for the key; ``absent`` where the host has none.
        evidence: The programs' stat, and the absence of those that would be found first.
    """

    versions: dict[str, str]
    evidence: Evidence


class ToolFinder:
    """Finds host tools and remembers their versions by the programs' stat.

    Args:
        memory: Where version texts are kept.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def find(self, *, kind: str, preset: str | None, suffix: str, env: Mapping[str, str]) -> HostTools:
        """The tools of one compile.

        Args:
            kind: The target's kind: ``llvm``, ``cuda``, ...
            preset: Its name, for targets with build rules of their own.
            suffix: Of the library; an archive (``tar``) is not linked.
            env: The client's keyed and passed variables.
        """
        search = _Search(self._memory, env)
        preset = preset or ""
        ndk = preset == "android:adreno-so" or (preset.startswith("mali") and "TVM_NDK_CC" in env)
        if ndk:
            search.program("ndk", env.get("TVM_NDK_CC", ""), ["--version"], ["-dumpmachine"])
        elif preset.startswith("webgpu"):
            search.program("emcc", "emcc", ["--version"])
            for variable, path in WASM_PARTS:
                search.content(os.path.basename(path), env.get(variable, ""), path)  # noqa: PTH119 - texts, not paths
        elif suffix != "tar":
            search.cxx()
        if kind == "cuda":
            search.program("nvcc", "nvcc", ["--version"])
            home = env.get("CUDA_HOME") or env.get("CUDA_PATH")
            if home:
                search.program("nvcc of CUDA_HOME", os.path.join(home, "bin", "nvcc"), ["--version"])  # noqa: PTH118
        if kind == "rocm":
            root = env.get("ROCM_PATH") or env.get("ROCM_HOME") or "/opt/rocm"
            search.content("rocm", root, ".info/version")
            search.program("ld.lld", "ld.lld", ["--version"])
        if kind == "metal" and sys.platform == "darwin":
            search.program("xcrun", "xcrun", ["--version"], ["-sdk", "macosx", "metal", "--version"])
        return HostTools(search.versions, Evidence(tuple(search.present), tuple(search.absent)))


_Known = tuple[str, dict[str, Any]]
"""A tool's version text, and the stat of the further programs that it was read from."""


class _Search:
    """One question's findings, gathered."""

    def __init__(self, memory: Memory, env: Mapping[str, str]) -> None:
        self._memory = memory
        self._env = {name: value for name, value in env.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
        self._keyed = sorted((name, value) for name, value in env.items() if is_keyed(name))
        self._folders = [d for d in env.get("PATH", os.defpath).split(os.pathsep) if d]
        self.versions: dict[str, str] = {}
        self.present: list[Stamp] = []
        self.absent: list[Stamp] = []

    def cxx(self) -> None:
        """The C++ compiler as ``tvm.support.cc.get_cc`` chooses it, and the linker that it calls."""
        named = self._env.get("CXX") or self._env.get("CC")
        path = self._which(named) if named else next(filter(None, map(self._which, CC_NAMES)), None)
        self._record("c++", path, ["--version"], ["-dumpmachine"], ["-print-prog-name=ld"])

    def program(self, tool: str, command: str, *questions: list[str]) -> None:
        """A program by its name or path."""
        self._record(tool, self._which(command) if command else None, *questions)

    def content(self, tool: str, folder: str, path: str) -> None:
        """A file that ends up in the library, by its bytes."""
        if not folder:
            self.versions[tool] = ABSENT
            return
        whole = os.path.join(folder, path)  # noqa: PTH118 - texts all the way
        mark = stamp(whole)
        self.present.append(mark)
        self.versions[tool] = ABSENT if mark.stat is None else probe.file_digest(whole)

    def _which(self, command: str) -> str | None:
        if os.sep in command:
            self.present.append(stamp(command))
            return command if _is_program(command) else None
        for folder in self._folders:
            path = os.path.join(folder, command)  # noqa: PTH118 - the hot loop of a search
            if _is_program(path):
                self.present.append(stamp(path))
                return path
            self.absent.append(Stamp(path, "file", None))
        return None

    def _record(self, tool: str, path: str | None, *questions: list[str]) -> None:
        if path is None:
            self.versions[tool] = ABSENT
            return
        real = os.path.realpath(path)
        marks = [stamp(path), stamp(real)]
        question = [tool, path, [mark.stat for mark in marks], self._keyed, self._folders]
        known = _still(self._memory.get("tool", question))
        if known is None:
            known = self._ask(path, questions)
            self._memory.put("tool", question, known)
        version, parts = known
        self.present += [marks[1], *(stamp(name) for name in parts)]
        self.versions[tool] = version

    def _ask(self, path: str, questions: tuple[list[str], ...]) -> _Known:
        said: list[str] = []
        parts: dict[str, Any] = {}
        for question in questions:
            answer = self._run(path, question)
            if question[0] == "-print-prog-name=ld":
                linker = self._which(answer.strip()) if answer.strip() else None
                if linker is not None:
                    parts[linker] = probe.stat_of(linker)
                    answer = _first_line(self._run(linker, ["-v"]))
            elif tuple(question) == ("--version",):
                answer = _version_lines(answer)
            said.append(answer.strip())
        return "; ".join(text for text in said if text) or "says nothing", parts

    def _run(self, path: str, arguments: list[str]) -> str:
        try:
            done = subprocess.run(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._env, "LC_ALL": "C"},
                cwd="/",
                timeout=SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return ""
        return done.stdout.decode(errors="replace")


def _still(known: Any) -> _Known | None:
    """A remembered answer whose further programs have not changed."""
    try:
        version, parts = known
        same = all(probe.stat_of(path) == stat for path, stat in parts.items())
    except (TypeError, ValueError, AttributeError):
        return None
    return (version, parts) if same and isinstance(version, str) else None


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113 - as TVM looks, hundreds of times


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _version_lines(text: str) -> str:
    """The first line, and of nvcc also those that carry its release and build."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:1] + [line for line in lines[1:] if "release" in line or line.startswith("Build")])
