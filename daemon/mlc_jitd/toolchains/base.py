"""What a toolchain is to the rest of the house: plain values, and one small protocol.

A toolchain's host side (here and in ``mlc_llm/``, ``tvm/``) says how a compiler is asked and how its log is read. It
starts nothing and imports no compiler; ``inside/`` scripts do that, in the toolchain's own interpreter.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_NAME = "mlc-chat-config.json"

OWN_VARIABLES: tuple[str, ...] = ("HOME", "USER", "LANG")
"""What a compiler gets from the daemon's own environment, where the client passed none."""

_THREAD_CAPS: tuple[str, ...] = (
    "CMAKE_BUILD_PARALLEL_LEVEL",
    "MAX_JOBS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TVM_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_ONE_EACH: tuple[str, ...] = ("FLASHINFER_NVCC_THREADS", "NVCC_THREADS")
"""Threads inside one nvcc: ``MAX_JOBS`` of them run at a time."""

_ALLOCATOR: dict[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}
"""Makes glibc keep what it has: a compile frees and takes millions of times, and each page comes back as a fault.

See docs/performance.md for what it saves; other C libraries ignore it.
"""

WARM = Path(__file__).parent / "inside" / "warm.py"

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class CompileJob:
    """Everything one compile needs: a snapshot, so that nothing can change between key and compile.

    Attributes:
        toolchain: ``mlc_llm`` or ``tvm``.
        python: The interpreter that has it, absolute.
        config: The bytes of ``mlc-chat-config.json``, as the client sent them: unstripped, some model types require
            fields that change nothing.
        overrides: ``name=value;name=value`` in upstream's order, normalised.
        opt: A preset (``O2``) or flags, normalised.
        device: A preset's name, or the resolved target as JSON with its host.
        compiler_prefix: What ``--system-lib-prefix`` gets, trailing underscore included; ``None`` to leave it out.
        suffix: Of the library: ``so``, ``dylib``, ``tar``, ``wasm``.
        environment: The client's keyed and passed variables, sorted.
    """

    toolchain: str
    python: str
    config: bytes
    overrides: str
    opt: str
    device: str
    compiler_prefix: str | None
    suffix: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Command:
    """One process to start: arguments, its whole environment, and its working folder."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: Path


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a compile has got to, read from a line of its log."""

    name: str
    detail: str = ""


class Toolchain(Protocol):
    """How one kind of compiler is asked, and how its log is read."""

    @property
    def name(self) -> str:
        """The toolchain's name, as in ``JitRequest.toolchain``."""

    def command(self, job: CompileJob, *, scratch: Path, output: Path, cores: int) -> Command:
        """The command that compiles ``job`` to ``output``.

        Args:
            job: What to compile.
            scratch: An empty folder of the job's own; the config and all temporary files go there.
            output: Where the library is wanted, absolute; its folder exists.
            cores: How many threads the compile may use.

        Raises:
            OSError: The config could not be written into ``scratch``.
        """

    def warm(self, job: CompileJob, *, folder: Path) -> Command:
        """The command of a process that imports the compiler once and then runs commands like ``job``'s.

        Args:
            job: Any that is to run there: its interpreter and its variables count.
            folder: The process's own, for what importing writes.
        """

    def stage(self, line: str) -> Stage | None:
        """The stage that a log line announces, if it announces one."""

    def root_cause(self, tail: str) -> str | None:
        """The line of a log's tail that says why the compile failed, one sentence; ``None`` if none does."""

    def degraded(self, line: str) -> str | None:
        """What the compiler fell back from, as ``"flashinfer: why"``, if the line says that it did."""


def compiler_environment(
    variables: tuple[tuple[str, str], ...], *, scratch: Path, cores: int, own: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """The whole environment of a process that imports a compiler.

    Args:
        variables: The client's keyed and passed variables.
        scratch: Where its temporary files and the folders that ``import mlc_llm`` makes go.
        cores: Cap of every thread pool that is known to read one.
        own: The daemon's environment; ``os.environ`` unless a test says otherwise.
    """
    own = os.environ if own is None else own
    env = {**_ALLOCATOR, **{name: own[name] for name in OWN_VARIABLES if name in own}}
    env.update(variables)
    env.update(dict.fromkeys(_THREAD_CAPS, str(cores)))
    env.update(dict.fromkeys(_ONE_EACH, "1"))
    env.update(
        {
            "MLC_LLM_HOME": str(scratch / "home"),
            "MLC_TEMP_DIR": str(scratch),
            "PYTHONSAFEPATH": "1",  # a folder named mlc_llm or tvm in the working folder must not replace the compiler
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),
        }
    )
    return tuple(sorted(env.items()))


def warm_command(job: CompileJob, *, folder: Path, imports: tuple[str, ...], search: tuple[Path, ...] = ()) -> Command:
    """A process of ``inside/warm.py``, see ``Toolchain.warm``.

    Its thread pools have one thread: some start at import, and a process with two can't be forked. A job's own caps
    are set in its child, where the pools that a compile uses read them.

    Args:
        job: As for ``Toolchain.warm``.
        folder: As for ``Toolchain.warm``.
        imports: The modules to import ahead.
        search: Folders that come first on the path.
    """
    argv = [job.python, "-P", str(WARM)]
    argv += [part for module in imports for part in ("--import", module)]
    argv += [part for place in search for part in ("--path", str(place))]
    return Command(tuple(argv), compiler_environment(job.environment, scratch=folder, cores=1), folder)


def plain(line: str) -> str:
    """A log line without terminal colours and surrounding blanks."""
    return _COLOUR.sub("", line).strip()


def shortened(sentence: str, limit: int = 500) -> str:
    """A sentence cut to a length that an error message can carry."""
    return sentence if len(sentence) <= limit else sentence[: limit - 1] + "…"
