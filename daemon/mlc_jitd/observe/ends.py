"""What a job is about and how it ended, in the terms of the record. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jit.errors import CompileCancelledError, DrainingError, JitError
from mlc_jitd.observe.record import Ending, Kernels, Subject

if TYPE_CHECKING:
    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identity
    from mlc_jitd.observe.record import Outcome
    from mlc_jitd.work import Built


def subject_of(identity: Identity, request: JitRequest, *, reason: str, why: str) -> Subject:
    """What a job is about.

    Args:
        identity: What exactly is made.
        request: Of who asked first.
        reason: Why it was no hit, in a word.
        why: The same in a sentence.
    """
    facts = identity.toolchain
    return Subject(
        key=identity.key,
        model=request.model_path,
        device=request.device,
        toolchain=f"{facts.name} {dict(facts.versions).get(facts.name, '')}".rstrip(),
        model_type=identity.model_type,
        quantization=identity.quantization,
        reason=reason,
        why=why,
    )


def ending(end: Built | JitError | None) -> Ending:
    """How a job ended; ``None`` for one that was taken out of the queue."""
    if end is None:
        return Ending(outcome="withdrawn")
    if isinstance(end, JitError):
        outcome: Outcome = "cancelled" if isinstance(end, CompileCancelledError | DrainingError) else "failed"
        return Ending(outcome=outcome, kind=end.kind, reason=end.reason, cause=end.message, log=end.log_path)
    manifest = end.entry.manifest
    if not end.compiled:
        return Ending(outcome="found", size=manifest.size)
    made, apart = manifest.compile, manifest.compile.kernels
    return Ending(
        outcome="compiled",
        log=made.log,
        seconds=made.seconds,
        peak_memory=made.peak_memory,
        size=manifest.size,
        kernels=Kernels(total=apart.total, reused=apart.reused, saved=apart.saved, spent=apart.spent),
        degraded=manifest.degraded,
    )
