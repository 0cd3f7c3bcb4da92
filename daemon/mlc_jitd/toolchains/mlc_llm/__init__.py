"""mlc_llm's host side: the command line of its compiler, and how its log is read.

The log lines are those of mlc-llm 79d603f0; docs/architecture.md says what was provoked to see them. What does not
belong here: anything that imports mlc_llm (see ``inside/``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlc_jitd.toolchains.base import CONFIG_NAME, Command, CompileJob, Stage, compiler_environment, plain, warm_command
from mlc_jitd.toolchains.tracebacks import last_error

if TYPE_CHECKING:
    from pathlib import Path

STAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Found model configuration"), "importing"),
    (
        re.compile(r"(Detecting target device|Found configuration of target device|Try creating device target)"),
        "target",
    ),
    (re.compile(r"Creating model from"), "model"),
    (re.compile(r"Exporting the model to TVM compiler"), "export"),
    (re.compile(r"Running optimizations using TVM"), "optimize"),
    (re.compile(r"Running TVM Relax graph-level optimizations"), "graph passes"),
    (re.compile(r"Lowering to TVM TIR kernels"), "lowering"),
    (re.compile(r"Running TVM TIR-level optimizations"), "kernel passes"),
    (re.compile(r"Running TVM Dlight low-level optimizations"), "scheduling"),
    (re.compile(r"Lowering to VM bytecode"), "bytecode"),
    (re.compile(r"Compiling external modules"), "external modules"),
    (re.compile(r"Compilation complete! Exporting to disk"), "code generation"),
    (re.compile(r"Generated: "), "done"),
)
"""First words of a log line's message, in the order in which a compile comes to them, and the stage they announce."""

DEGRADED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(error|exception|failed|cannot|unable)\b.{0,80}flashinfer", re.IGNORECASE), "flashinfer"),
    (re.compile(r"Using LLVM \S+ with `-mcpu=.*is not valid.*using default"), "mcpu"),
)
"""What the compiler could not do *here*. A fallback that follows from config and target alone is no degradation."""

_LOGGED = re.compile(r"^\[[\d: -]+\] (?P<level>[A-Z]+) [\w.]+:\d+: (?P<message>.*)$")


class MlcLlmToolchain:
    """``python -m mlc_llm compile``, as upstream's ``jit()`` calls it."""

    @property
    def name(self) -> str:
        """``mlc_llm``."""
        return "mlc_llm"

    def command(self, job: CompileJob, *, scratch: Path, output: Path, cores: int) -> Command:
        """See ``Toolchain.command``."""
        model = scratch / "model"
        model.mkdir(parents=True, exist_ok=True)
        (model / CONFIG_NAME).write_bytes(job.config)
        argv = [
            job.python, "-P", "-m", "mlc_llm", "compile", str(model.absolute()),
            "--opt", job.opt,
            "--overrides", job.overrides,
            "--device", job.device,
            "--output", str(output),
        ]  # fmt: skip
        if job.compiler_prefix is not None:
            argv += ["--system-lib-prefix", job.compiler_prefix]
        env = compiler_environment(job.environment, scratch=scratch, cores=cores)
        return Command(tuple(argv), env, scratch)

    def warm(self, job: CompileJob, *, folder: Path) -> Command:
        """See ``Toolchain.warm``."""
        return warm_command(job, folder=folder, imports=("mlc_llm.cli.compile",))

    def stage(self, line: str) -> Stage | None:
        """See ``Toolchain.stage``."""
        logged = _LOGGED.match(plain(line))
        if logged is None:
            return None
        message = logged["message"]
        return next((Stage(name) for pattern, name in STAGES if pattern.match(message)), None)

    def root_cause(self, tail: str) -> str | None:
        """See ``Toolchain.root_cause``."""
        return last_error(tail)

    def degraded(self, line: str) -> str | None:
        """See ``Toolchain.degraded``."""
        text = plain(line)
        for pattern, what in DEGRADED:
            if pattern.search(text):
                logged = _LOGGED.match(text)
                return f"{what}: {(logged['message'] if logged else text)[:300]}"
        return None
