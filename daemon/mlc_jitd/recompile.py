"""An entry's configuration compiled once more, outside the cache, to compare what the two libraries compute.

What is asked again follows from the manifest: the config that it keeps, and the key's parts. The passed variables
(PATH, PYTHONPATH, ...) are those of this process; that they lead to the same compiler is what the key proves. Not here:
the comparison (`comparison`), and what is done about a difference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit import variables
from mlc_jit.errors import CompileError, RequestError
from mlc_jitd.build import Limits, StopSignal, run
from mlc_jitd.comparison import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlc_jitd.identity import Identifier, Identity
    from mlc_jitd.store import Manifest
    from mlc_jitd.toolchains import CompileJob, Toolchain

ANOTHER = "another-identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What compiling and running may use.

    Attributes:
        cores: Threads.
        memory: Bytes that the compile, and then the two libraries, may take; ``None`` for no limit.
        seconds: Of the compile, and of the comparison; ``None`` for no limit of the compile.
        silence: Seconds that the compiler may be silent.
    """

    cores: int = 1
    memory: int | None = None
    seconds: float | None = None
    silence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of it, and the compile's seconds."""

    comparison: Comparison
    seconds: float


def question(manifest: Manifest, environ: Mapping[str, str]) -> m.JitRequest:
    """The request whose answer the entry is.

    Args:
        manifest: The entry's.
        environ: This process's variables: the passed ones are taken from here, the keyed ones from the manifest.

    Raises:
        RequestError: The manifest does not keep what is needed.
    """
    parts = {name: part.value for name, part in manifest.parts.items()}
    if not manifest.config or not {"overrides", "opt", "environment"} <= set(parts) or not manifest.device:
        raise RequestError(
            f"The manifest of {manifest.key[:12]} does not keep the config that it was compiled from.",
            remedy="Versions from 0.1.0 on keep it: ask for the model again with MLC_JIT_POLICY=REDO.",
            reason="no-config",
            key=manifest.key,
        )
    passed = {name: value for name, value in variables.collect(environ).items() if not variables.is_keyed(name)}
    return m.JitRequest(
        config=manifest.config.encode(),
        model_path=manifest.model.path,
        overrides=parts["overrides"],
        opt=parts["opt"],
        device=manifest.device,
        system_lib_prefix=manifest.system_lib_prefix,
        python=manifest.toolchain.interpreter,
        toolchain="tvm" if manifest.toolchain.name == "tvm" else "mlc_llm",
        environment={**passed, **parts["environment"]},
    )


def same_identity(identifier: Identifier, manifest: Manifest, environ: Mapping[str, str]) -> Identity:
    """The identity of the entry's configuration on this host, now.

    Raises:
        RequestError: It is another one: ``reason`` is ``another-identity``, and the message names the parts.
        JitError: It can't be worked out: the interpreter is gone, say.
    """
    identity = identifier.identify(question(manifest, environ))
    if identity.key == manifest.key:
        return identity
    parts = [p.name for p in identity.parts if manifest.parts[p.name].sha256 != p.sha256]
    old, new = manifest.toolchain.versions, dict(identity.toolchain.versions)
    changed = [f"{name} {old.get(name, 'absent')}, now {new.get(name, 'absent')}" for name in sorted({*old, *new})
               if old.get(name) != new.get(name)]  # fmt: skip
    raise RequestError(
        f"The same can't be compiled again: the configuration of {manifest.key[:12]} has another key here and now "
        f"({', '.join(parts)}{': ' if changed else ''}{'; '.join(changed)}).",
        remedy="Run this with the compiler and the environment (PATH, PYTHONPATH, ...) that made it.",
        reason=ANOTHER,
        key=manifest.key,
    )


def recompile(
    identity: Identity,
    library: Path,
    toolchain: Toolchain,
    *,
    scratch: Path,
    means: Means,
    report: Callable[[str, str], None] = lambda _stage, _detail: None,
    job: CompileJob | None = None,
    stop: StopSignal | None = None,
) -> Proof:
    """Compile once more, into ``scratch``, and compare what the two libraries compute; the cache is only read.

    Args:
        identity: The entry's, as ``same_identity`` gave it.
        library: The entry's, or a copy: a collector does not know of this use.
        toolchain: The identity's.
        scratch: An empty folder outside the cache.
        means: What it may use.
        report: Told each stage of the compile and each function that is run.
        job: Compile this instead of the identity's own job: another way to the same library.
        stop: Ends it from another thread.

    Raises:
        CompileError: It does not compile.
        OSError: The scratch folder can't be written.
    """
    stop = stop or StopSignal()
    job = job or identity.job
    work, output = scratch / "compile", scratch / f"again.{identity.suffix}"
    work.mkdir()
    began = time.monotonic()

    def on_line(line: str) -> None:
        stage = toolchain.stage(line)
        if stage is not None:
            report(stage.name, stage.detail)

    outcome = run(
        toolchain.command(job, scratch=work, output=output, cores=means.cores),
        Limits(total=means.seconds, silence=means.silence, memory_bytes=means.memory, cores=means.cores),
        log=scratch / "compile.log",
        on_line=on_line,
        stop=stop,
    )
    if not outcome.succeeded or not output.is_file():
        why = toolchain.root_cause(outcome.log_tail) or outcome.detail or f"it {outcome.status}"
        raise CompileError(
            f"Compiling {identity.key[:12]} again failed: {why}",
            remedy="It compiled once: look at what changed on this host.",
            reason=outcome.status,
            key=identity.key,
            log_tail=outcome.log_tail,
        )
    seconds = round(time.monotonic() - began, 3)
    folder = scratch / "compare"
    folder.mkdir()
    found = compare(
        job.python,
        library,
        output,
        config=job.config,
        environment=job.environment,
        scratch=folder,
        memory=means.memory,
        cores=means.cores,
        report=lambda name: report("run", name),
        stop=stop,
    )
    return Proof(comparison=found, seconds=seconds)
