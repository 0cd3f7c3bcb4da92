"""The embedded toolchain's host side: Llama-family models with nothing but TVM.

The compiler itself is in ``inside/`` and speaks a log of its own: ``mlc-jitd stage: <name> <detail>`` and
``mlc-jitd error: <sentence>``, on stderr. What does not belong here: anything that imports tvm.
"""

from __future__ import annotations

import re
from pathlib import Path

from mlc_jitd.toolchains.base import (
    CONFIG_NAME,
    Command,
    CompileJob,
    Stage,
    compiler_environment,
    plain,
    shortened,
    warm_command,
)
from mlc_jitd.toolchains.tracebacks import last_error

COMPILE = Path(__file__).parent / "inside" / "compile.py"

_STAGE = re.compile(r"^mlc-jitd stage: (?P<name>\S+)(?: (?P<detail>.*))?$")
_ERROR = re.compile(r"^mlc-jitd error: (?P<why>.+)$")
_WEAK_MCPU = re.compile(r"Using LLVM \S+ with `-mcpu=.*is not valid.*using default")


class TvmToolchain:
    """``inside/compile.py``, run by an interpreter that has apache-tvm."""

    @property
    def name(self) -> str:
        """``tvm``."""
        return "tvm"

    def command(self, job: CompileJob, *, scratch: Path, output: Path, cores: int) -> Command:
        """See ``Toolchain.command``."""
        model = scratch / "model"
        model.mkdir(parents=True, exist_ok=True)
        config = model / CONFIG_NAME
        config.write_bytes(job.config)
        argv = (
            job.python, "-P", str(COMPILE),
            "--config", str(config.absolute()),
            "--target", job.device,
            "--overrides", job.overrides,
            "--opt", job.opt,
            "--threads", str(cores),
            "--output", str(output),
        )  # fmt: skip
        return Command(argv, compiler_environment(job.environment, scratch=scratch, cores=cores), scratch)

    def warm(self, job: CompileJob, *, folder: Path) -> Command:
        """See ``Toolchain.warm``."""
        modules = ("mlc_jitd_tvm.pipeline", "mlc_jitd_tvm.targets")
        return warm_command(job, folder=folder, imports=modules, search=(COMPILE.parent,))

    def stage(self, line: str) -> Stage | None:
        """See ``Toolchain.stage``."""
        found = _STAGE.match(plain(line))
        return Stage(found["name"], found["detail"] or "") if found else None

    def root_cause(self, tail: str) -> str | None:
        """See ``Toolchain.root_cause``."""
        said = [found["why"] for line in tail.splitlines() if (found := _ERROR.match(plain(line)))]
        return shortened(said[-1]) if said else last_error(tail)

    def degraded(self, line: str) -> str | None:
        """See ``Toolchain.degraded``."""
        text = plain(line)
        return f"mcpu: {shortened(text, 300)}" if _WEAK_MCPU.search(text) else None
