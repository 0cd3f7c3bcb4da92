"""What goes to a compile farm and comes back: plain values, and what a worker must have. Pure; both sides import it.

A task is a request as the wire protocol has it, and the hashes that the worker's own look at it must give: a worker
whose compiler is another build compiles nothing. What does not belong here: Dask (`farm`), compiling (`farmhand`).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlc_jit import messages as m
from mlc_jit.errors import (
    CompileCancelledError,
    CompileError,
    CompileKilledError,
    CompileOutOfMemoryError,
    ProtocolError,
    RequestError,
)
from mlc_jitd.store import CompileRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlc_jit.errors import JitError
    from mlc_jitd.identity import Identity, Part

FORMAT = 1
PLACE = "mlc-jitd"
"""The resource of which a compile takes one: a worker has as many as it may run compiles."""

MEMORY = "memory"
MEMORY_BYTES = 2 << 30
"""What a compile is taken to need, in bytes."""

MOST_LIBRARY_BYTES = 2 << 30
EXACT = frozenset({"format", "model", "overrides", "opt", "prefix", "toolchain", "environment"})
HOSTS_OWN = "cpu"
"""Of the target: the instruction sets of the local CPU. The target names its own, so a builder's do not matter."""


class FarmReplyError(ValueError):
    """What came back is no library."""


class WorkerFaultError(Exception):
    """A worker could not do its part, which says nothing of what another host can."""


_VERDICTS = (CompileError, RequestError)
_OWN_FAULTS = (CompileCancelledError, CompileKilledError, CompileOutOfMemoryError)


def toolchain(fingerprint: str) -> str:
    """The resource that says that a worker has this build of a compiler."""
    return f"toolchain-{fingerprint[:16]}"


def architecture(arch: str) -> str:
    """The resource that says that a worker has a GPU of an architecture."""
    return f"cuda-{arch}"


def wants(identity: Identity) -> dict[str, float]:
    """What a worker must have to compile this."""
    found: dict[str, float] = {PLACE: 1, MEMORY: MEMORY_BYTES, toolchain(identity.toolchain.fingerprint): 1}
    facts = _part(identity.parts, "target").get("facts") or {}
    found.update({architecture(str(arch)): 1 for arch in facts.get("visible") or ()})
    return found


def lacking(wanted: Mapping[str, float], workers: Iterable[Mapping[str, float]]) -> str:
    """What no worker has, in words; empty if some worker has all of it."""
    everyone = list(workers)
    if not everyone:
        return "it has no workers"
    if any(all(each.get(name, 0) >= amount for name, amount in wanted.items()) for each in everyone):
        return ""
    missing = [name for name, amount in wanted.items() if all(each.get(name, 0) < amount for each in everyone)]
    return (
        f"none of its {len(everyone)} workers has {' and '.join(missing) if missing else 'all of ' + ', '.join(wanted)}"
    )


def task_of(identity: Identity, *, model_path: str, topic: str, redo: bool, accelerated: bool) -> dict[str, Any]:
    """A compile as it travels."""
    parts = {part.name: part.value for part in identity.parts}
    job = identity.job
    request = m.JitRequest(
        id=0,
        config=job.config,
        model_path=model_path,
        overrides=parts["overrides"],
        opt=parts["opt"],
        device=job.device,
        system_lib_prefix=identity.result_prefix,
        policy="REDO" if redo else "ON",
        python="",
        toolchain="tvm" if job.toolchain == "tvm" else "mlc_llm",
        environment=dict(parts["environment"]),
        acceleration="" if accelerated else "off",
    )
    return {
        "format": FORMAT,
        "key": identity.key,
        "topic": topic,
        "request": m.encode(request),
        "suffix": identity.suffix,
        "parts": {part.name: part.sha256 for part in identity.parts if part.name in EXACT},
        "target": _comparable(identity),
    }


def differences(task: Mapping[str, Any], identity: Identity) -> list[str]:
    """The parts in which a worker's own look at the task differs from the asker's."""
    found = [part.name for part in identity.parts if part.name in EXACT and task["parts"].get(part.name) != part.sha256]
    if task["target"] != _comparable(identity):
        found.append("target")
    if task["suffix"] != identity.suffix:
        found.append("suffix")
    return found


@dataclass(frozen=True, slots=True)
class Made:
    """A library that a farm made, its bytes checked against the worker's own digest."""

    library: bytes
    compile: CompileRecord
    degraded: tuple[str, ...]
    worker: str


def reply_of(library: bytes, record: CompileRecord, degraded: tuple[str, ...], worker: str) -> dict[str, Any]:
    """A library as it travels."""
    return {
        "library": library,
        "sha256": hashlib.sha256(library).hexdigest(),
        "compile": asdict(record),
        "degraded": list(degraded),
        "worker": worker,
    }


def failure_of(error: JitError) -> dict[str, Any]:
    """An error as it travels."""
    return {"error": m.encode(m.Failure.of(error, id=0))}


def made_of(reply: Any) -> Made:
    """What came back.

    Raises:
        JitError: The compiler said no there, as it would here.
        WorkerFaultError: The worker had no room, no memory, or trouble of its own.
        FarmReplyError: It is no library, or not the one that the worker sent.
    """
    if not isinstance(reply, dict):
        raise FarmReplyError("the farm's answer is none")
    if "error" in reply:
        error = _failure(reply["error"])
        if isinstance(error, _VERDICTS) and not isinstance(error, _OWN_FAULTS):
            raise error
        raise WorkerFaultError(f"a worker could not: {error.message}")
    if "differs" in reply:
        raise FarmReplyError(f"the worker's own look differs in: {', '.join(map(str, reply['differs']))}")
    library = reply.get("library")
    if not isinstance(library, bytes) or not 0 < len(library) <= MOST_LIBRARY_BYTES:
        raise FarmReplyError("the farm sent no library")
    if hashlib.sha256(library).hexdigest() != reply.get("sha256"):
        raise FarmReplyError("the library was damaged on its way from the farm")
    try:
        record = msgspec.convert(reply.get("compile"), CompileRecord)
        degraded = msgspec.convert(reply.get("degraded"), tuple[str, ...])
    except msgspec.ValidationError as error:
        raise FarmReplyError(f"the farm's answer can't be understood: {error}") from error
    return Made(library, record, degraded, str(reply.get("worker", ""))[:200])


def _failure(text: Any) -> JitError:
    """The error that a worker tells of."""
    try:
        failure = m.decode(text, {m.Failure.verb: m.Failure}, strict=True)
    except ProtocolError as error:
        raise FarmReplyError(f"the farm's error can't be understood: {error}") from error
    assert isinstance(failure, m.Failure)
    return failure.error()


def _part(parts: Iterable[Part], name: str) -> dict[str, Any]:
    return next((dict(part.value) for part in parts if part.name == name), {})


def _comparable(identity: Identity) -> dict[str, Any]:
    return {name: value for name, value in _part(identity.parts, "target").items() if name != HOSTS_OWN}
