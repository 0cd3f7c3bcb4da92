"""Which toolchain an interpreter has: found by a probe in a subprocess, proved afterwards by stat alone.

The probe imports no compiler and takes a fraction of a second; its answer is remembered on disk with the stamps that
prove it. What does not belong here: targets, and how a compiler is asked.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError, ToolchainNotFoundError
from mlc_jitd.identity.canonical import digest
from mlc_jitd.identity.flight import SingleFlight
from mlc_jitd.identity.helpers import HelperError, HelperTimeoutError, ask
from mlc_jitd.identity.stamps import (
    Checker,
    Evidence,
    Stamp,
    changed_files,
    evidence_from,
    rows,
    stamps_on_the_way,
)
from mlc_jitd.toolchains import own_sources
from mlc_jitd.toolchains.base import OWN_VARIABLES
from mlc_jitd.toolchains.inside import probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jit.messages import ToolchainChoice
    from mlc_jitd.identity.memory import Memory

PROBE = Path(probe.__file__)
PROBE_SECONDS = 60.0
MOST_EDITS = 100
"""Changed files that are kept by name; an upgrade changes them all."""

PROBE_VARIABLES: tuple[str, ...] = (
    "CONDA_PREFIX",
    "DYLD_LIBRARY_PATH",
    "HOME",
    "LD_LIBRARY_PATH",
    "MLC_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "PYTHONPATH",
    "PYTHONUSERBASE",
    "SKIP_LOADING_MLCLLM_SO",
    "TVM_HOME",
    "TVM_LIBRARY_PATH",
)
"""What decides which packages and libraries an interpreter finds."""

PARTS_OF: dict[str, tuple[str, ...]] = {"mlc_llm": probe.PACKAGES, "tvm": ("tvm", "tvm_ffi")}
"""The packages that each toolchain compiles with."""

SAME: tuple[str, ...] = ("executable", "python", "packages", "placeholder", "startup")
"""What a wrapper's interpreter must say without the wrapper too."""

WHEELS = (
    "MLC's wheels are not on PyPI: `{python} -m pip install --pre -U -f https://mlc.ai/wheels mlc-llm-nightly-cpu "
    "mlc-ai-nightly-cpu` (or the -cu128, -cu130, -rocm62 ones). For Llama models on the CPU "
    "`{python} -m pip install apache-tvm` is enough."
)


@dataclass(frozen=True, slots=True)
class ToolchainFacts:
    """One toolchain of one interpreter.

    Attributes:
        name: ``mlc_llm`` or ``tvm``.
        python: The interpreter that compiles: the one asked for, or behind a wrapper the one that it starts.
        versions: Package and version, of those that are there.
        fingerprint: SHA-256 of ``value``, hex: the same build gives the same one, wherever it lies.
        value: What is in the key.
        evidence: Files whose stat proves that it is still so.
        model_types: Those that it knows, where its sources say so plainly.
        quantizations: Likewise.
        overrides: Name and type of each override that it knows, in its order; likewise.
    """

    name: str
    python: str
    versions: tuple[tuple[str, str], ...]
    fingerprint: str
    value: dict[str, Any] = field(compare=False)
    evidence: tuple[Evidence, ...] = field(compare=False, repr=False)
    model_types: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    quantizations: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    overrides: tuple[tuple[str, str], ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Probed:
    answer: dict[str, Any]
    evidence: Evidence


class ToolchainFinder:
    """Probes interpreters, once for each that changed.

    Args:
        memory: Where answers are kept across restarts.
        checker: Decides whether they still hold.
        seconds: Time limit of one probe.
    """

    def __init__(self, memory: Memory, checker: Checker, *, seconds: float = PROBE_SECONDS) -> None:
        self._memory = memory
        self._checker = checker
        self._seconds = seconds
        self._flight = SingleFlight()
        self._lock = threading.Lock()
        self._known: dict[str, _Probed] = {}
        self._facts: dict[tuple[int, str], tuple[_Probed, ToolchainFacts]] = {}

    def find(self, python: str, choice: ToolchainChoice, environment: Mapping[str, str]) -> ToolchainFacts:
        """The toolchain to use.

        Args:
            python: The interpreter, absolute.
            choice: ``auto`` takes mlc_llm where it is importable, else tvm.
            environment: The client's keyed and passed variables.

        Raises:
            ToolchainNotFoundError: No such interpreter, or it can import no such compiler.
        """
        check_interpreter(python)
        probed = self._probed(python, environment)
        packages = probed.answer["packages"]
        name = choice
        if name == "auto":
            name = "mlc_llm" if packages["mlc_llm"] is not None else "tvm"
        if packages[name] is None or packages["tvm"] is None:
            raise _missing(python, choice, probed.answer)
        python = probed.answer["run"]
        with self._lock:
            held = self._facts.get((id(probed), name))
        if held is not None and held[0] is probed and self._checker.holds(*held[1].evidence[1:]):
            return held[1]
        facts = _facts(name, python, probed)
        with self._lock:
            if len(self._facts) > 256:  # noqa: PLR2004 - a bound
                self._facts.clear()
            self._facts[id(probed), name] = (probed, facts)
        return facts

    def _probed(self, python: str, environment: Mapping[str, str]) -> _Probed:
        env = {name: os.environ[name] for name in OWN_VARIABLES if name in os.environ}
        env |= dict(environment)
        env["PYTHONSAFEPATH"] = "1"
        question = [python, sorted((name, env[name]) for name in PROBE_VARIABLES if name in env)]
        name = digest(question)
        with self._lock:
            known = self._known.get(name)
        if known is not None and self._checker.holds(known.evidence):
            return known
        return self._flight.do(name, lambda: self._probe(python, question, env))

    def _probe(self, python: str, question: list[Any], env: dict[str, str]) -> _Probed:
        before = probed = _read(self._memory.get("probe", question))
        if probed is None or not self._checker.holds(probed.evidence, thoroughly=True):
            answer = self._look(python, env)
            probed = _read(answer)
            if probed is None:
                raise ToolchainNotFoundError(
                    f"{python} did not answer like a Python interpreter", remedy=WHEELS.format(python=python)
                )
            self._memory.put("probe", question, answer)
            if before is not None:
                self._note_edits(before, probed)
        with self._lock:
            if len(self._known) > 256:  # noqa: PLR2004 - a bound
                self._known.clear()
            self._known[digest(question)] = probed
        return probed

    def edits(self, before: str, now: str) -> tuple[str, ...] | None:
        """The files that changed between two fingerprints of a toolchain; ``None`` where that was not seen here."""
        known = self._memory.get("edits", [before, now])
        return tuple(map(str, known)) if isinstance(known, list) else None

    def _note_edits(self, before: _Probed, now: _Probed) -> None:
        """Keep which files were changed: a fingerprint holds digests of whole packages, and people ask for the file."""
        files = changed_files(before.evidence, now.evidence)
        for name in PARTS_OF if files else ():
            old, new = (_fingerprint(name, probed) for probed in (before, now))
            if old is not None and new is not None and old != new:
                self._memory.put("edits", [old, new], list(files[:MOST_EDITS]))

    def _look(self, python: str, env: dict[str, str]) -> dict[str, Any]:
        """What an interpreter says of itself, with the stamps of the way to it, and as ``run`` the one to compile with.

        A wrapper or a shim is replaced by the interpreter that it starts, so that a compile can't be led elsewhere
        after the answer was given; unless it gives that interpreter other packages, when it is run itself. Not
        guaranteed: what a wrapper reads to decide, beside its own text, is not watched.
        """
        way = _settled(python)
        answer = self._ask(python, env)
        real = answer.get("executable")
        answer["run"] = python
        if isinstance(real, str) and real != python and _is_interpreter(real):
            further = _settled(real)
            direct = self._ask(real, env)
            if all(answer.get(name) == direct.get(name) for name in SAME):
                answer["run"] = real
                way += further
        if isinstance(answer.get("stamps"), dict) and isinstance(answer["stamps"].get("always"), list):
            answer["stamps"]["always"] += rows(way)
        return answer

    def _ask(self, python: str, env: dict[str, str]) -> dict[str, Any]:
        try:
            return ask(python, PROBE, None, env=tuple(sorted(env.items())), seconds=self._seconds)
        except HelperTimeoutError as error:
            raise JitError(
                f"The compiler can't be looked at: {error}.",
                remedy="Ask again when the host is less busy; `mlc-jit doctor` shows what it is short of.",
                reason="probe-timed-out",
            ) from error
        except HelperError as error:
            raise ToolchainNotFoundError(
                f"the interpreter can't be asked for its compiler: {error}",
                remedy="Name a Python 3.11 or later that starts and has mlc_llm or apache-tvm.",
            ) from error


def _settled(python: str) -> tuple[Stamp, ...]:
    """Stamps of the way to an interpreter, taken when nothing there is so young that it may change unseen."""
    for _ in range(10):
        way = stamps_on_the_way(python)
        age = time.time() - max((max(each.stat[3:]) for each in way if each.stat), default=0) / 1e9
        if age >= probe.SETTLED_SECONDS or age < -1:
            break
        time.sleep(probe.SETTLED_SECONDS)
    return way


def _is_interpreter(python: str) -> bool:
    return os.path.isabs(python) and os.path.isfile(python) and os.access(python, os.X_OK)  # noqa: PTH113, PTH117


def check_interpreter(python: str) -> None:
    """Refuse an interpreter that is none, without starting it.

    Raises:
        ToolchainNotFoundError: Not absolute, missing, or not executable.
    """
    remedy = "Name the interpreter that has the compiler, as sys.executable gives it."
    if not os.path.isabs(python) or "\0" in python:  # noqa: PTH117 - a text from the wire
        raise ToolchainNotFoundError(f"the interpreter {python!r} is not an absolute path", remedy=remedy)
    if not os.path.isfile(python):  # noqa: PTH113
        raise ToolchainNotFoundError(f"there is no interpreter {python}", remedy=remedy)
    if not os.access(python, os.X_OK):
        raise ToolchainNotFoundError(f"{python} is not executable", remedy=remedy)


def _read(answer: Any) -> _Probed | None:
    try:
        evidence = evidence_from(answer["stamps"])
        if not isinstance(answer["python"], dict) or not isinstance(answer["startup"], dict):
            return None
        if not isinstance(answer["run"], str):
            return None
        known = answer["overrides"]  # a version before this one did not ask: ask again
        if known is not None and not all(isinstance(text, str) for each in known for text in each):
            return None
        for name in probe.PACKAGES:
            found = answer["packages"][name]
            if found is not None and not (isinstance(found["version"], str) and isinstance(found["build"], str)):
                return None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return _Probed({name: value for name, value in answer.items() if name != "stamps"}, evidence)


def _fingerprint(name: str, probed: _Probed) -> str | None:
    if probed.answer["packages"].get(name) is None or probed.answer["packages"].get("tvm") is None:
        return None
    return _facts(name, "", probed).fingerprint


def _facts(name: str, python: str, probed: _Probed) -> ToolchainFacts:
    answer = probed.answer
    packages = {p: answer["packages"][p] for p in PARTS_OF[name]}
    own, own_evidence = own_sources(name)
    value = {
        "name": name,
        "python": answer["python"],
        "startup": answer["startup"],
        "own": own,
        "packages": {
            p: found and {"version": found["version"], "build": found["build"]} for p, found in packages.items()
        },
    }
    types, quantizations = (answer.get(key) if name == "mlc_llm" else None for key in ("model_types", "quantizations"))
    return ToolchainFacts(
        name=name,
        python=python,
        versions=tuple((p, found["version"]) for p, found in packages.items() if found),
        fingerprint=digest(value),
        value=value,
        evidence=(probed.evidence, evidence_from(own_evidence)),
        model_types=tuple(types) if types else None,
        quantizations=tuple(quantizations) if quantizations else None,
        overrides=_overrides(answer["overrides"]) if name == "mlc_llm" else None,
    )


def _overrides(fields: list[list[str]] | None) -> tuple[tuple[str, str], ...] | None:
    """Name and type; of ``Optional[int]`` and ``int | None`` the ``int``."""
    if not fields:
        return None
    found = []
    for field_name, annotation in fields:
        words = set(re.findall(r"\w+", annotation))
        found.append((field_name, next((word for word in ("bool", "int", "float") if word in words), "str")))
    return tuple(found)


def _missing(python: str, choice: str, answer: dict[str, Any]) -> ToolchainNotFoundError:
    remedy = WHEELS.format(python=python)
    if answer.get("placeholder"):
        return ToolchainNotFoundError(f"{python} has only PyPI's empty `mlc-llm` placeholder", remedy=remedy)
    if choice != "tvm" and answer["packages"]["mlc_llm"] is not None:
        return ToolchainNotFoundError(f"{python} has mlc_llm, but no tvm that it could compile with", remedy=remedy)
    what = {"auto": "neither mlc_llm nor tvm", "mlc_llm": "no mlc_llm", "tvm": "no tvm"}[choice]
    return ToolchainNotFoundError(f"{python} can import {what}", remedy=remedy)
