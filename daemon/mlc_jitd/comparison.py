"""Do two libraries compute the same? They are run beside each other, by the toolchain that made them.

The running is done by ``toolchains/inside/compare``, in a process tree of its own within limits: a library that
crashes, hangs or eats memory is an outcome. Not here: where the libraries come from, and what follows.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jitd.build import Limits, StopSignal, run
from mlc_jitd.toolchains import Command, compiler_environment

if TYPE_CHECKING:
    from collections.abc import Callable

INSIDE = Path(__file__).parent / "toolchains" / "inside" / "compare"

SECONDS = 3600.0
_SAYS = "mlc-jitd compare: "
_SUFFIXES = frozenset({"so", "dylib"})
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of running two libraries with the same random weights and inputs.

    Attributes:
        equal: Whether all that could be compared is equal, bit for bit; ``None`` when nothing could be.
        why: Why nothing could be compared, or what differs first; empty when all is equal.
        functions: Verdict, runs, values and reason for each function and kernel of the contract.
        details: The whole answer of ``toolchains/inside/compare``, whose docstring says what stands in it.
    """

    equal: bool | None
    why: str = ""
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def cannot_run(target: Any, suffix: str) -> str:
    """Why a library for this target can't be run on this host, or an empty string.

    Args:
        target: The resolved target, as the key's target part has it.
        suffix: The library's.
    """
    kind = target.get("kind") if isinstance(target, dict) else None
    name = kind.get("name") if isinstance(kind, dict) else kind
    if suffix not in _SUFFIXES:
        return f"a .{suffix} is no library of this host: it is made for a device that has to link it first"
    if name != "llvm":
        return f"it was compiled for {name or 'an unknown target'}, and libraries are run on the CPU alone"
    machine = platform.machine().lower()
    wanted = str(target.get("mtriple") or machine).partition("-")[0].lower()
    if _MACHINES.get(wanted, wanted) != _MACHINES.get(machine, machine):
        return f"it was compiled for {wanted}, and this host is {machine}"
    return ""


def compare(
    python: str,
    first: Path,
    second: Path,
    *,
    config: bytes,
    environment: tuple[tuple[str, str], ...],
    scratch: Path,
    memory: int | None = None,
    cores: int = 1,
    seconds: float = SECONDS,
    seed: int = 0,
    report: Callable[[str], None] = lambda _name: None,
    stop: StopSignal | None = None,
) -> Comparison:
    """Run two libraries with the same random weights and inputs on the CPU, and compare what they give bit for bit.

    Args:
        python: The interpreter that has the toolchain's tvm, and numpy.
        first: A library.
        second: Another one of the same configuration.
        config: Its ``mlc-chat-config.json``: the library does not say how large its vocabulary is.
        environment: The variables that the toolchain needs, as in ``CompileJob.environment``.
        scratch: An empty folder, for temporary files.
        memory: Bytes that may be taken; where weights and caches need more, nothing is run. ``None`` for no limit.
        cores: Threads.
        seconds: Total time.
        seed: Of weights and inputs.
        report: Told the name of each function before it is run.
        stop: Ends it from another thread.

    Raises:
        OSError: The scratch folder can't be written.

    Not guaranteed: that libraries found equal are equal for other inputs, and that kernels that no function of the
    contract reaches were run; ``details["kernels"]`` names those.
    """
    question, answer = scratch / "question.json", scratch / "answer.json"
    asked = {"first": str(first), "second": str(second), "config": json.loads(config or b"null"), "seed": seed}
    question.write_text(json.dumps({**asked, "memory": memory}))
    running = [""]

    def on_line(line: str) -> None:
        if line.startswith(_SAYS):
            running[0] = line.removeprefix(_SAYS).strip()
            report(running[0])

    outcome = run(
        Command(
            (python, "-P", str(INSIDE), str(question), str(answer)),
            compiler_environment(environment, scratch=scratch, cores=cores),
            scratch,
        ),
        Limits(total=seconds, silence=None, memory_bytes=memory, cores=cores, marks=(_SAYS,)),
        log=scratch / "compare.log",
        on_line=on_line,
        stop=stop or StopSignal(),
    )
    if outcome.succeeded and answer.is_file():
        return _read(json.loads(answer.read_text()))
    what = f"running {running[0]}" if running[0] else "loading them"
    match outcome.status:
        case "signalled":
            why = f"a library crashed: signal {outcome.signal} while {what}"
        case "exited":
            last = outcome.log_tail.strip().splitlines()[-1:] or [f"exit status {outcome.exit_status}"]
            why = f"the comparison failed while {what}: {last[0][:300]}"
        case "out-of-memory":
            why = f"it ran out of memory while {what}"
        case _:
            why = f"it was ended while {what}: {outcome.detail or outcome.status}"
    return Comparison(equal=None, why=why)


def _read(answer: dict[str, Any]) -> Comparison:
    functions: dict[str, dict[str, Any]] = answer["functions"]
    why = answer["refused"]
    if not why and answer["equal"] is None:
        why = "none of their functions could be called"
    if answer["equal"] is False:
        apart = [f"{name}: {each['why']}" for name, each in functions.items() if each["verdict"] == "different"]
        only = [*answer["names"]["first"], *answer["names"]["second"]]
        why = (
            apart[0]
            if apart
            else f"metadata: {', '.join(answer['metadata'])}"
            if answer["metadata"]
            else f"only one of them has {', '.join(only[:5])}"
        )
    return Comparison(equal=answer["equal"], why=why, functions=functions, details=answer)
