"""Kernels compiled apart, in parallel, and reused: the host side. What runs in the compiler is in ``inside/``.

For any toolchain that is built on TVM. A compile reads kernels of the store, and leaves new ones and a report in a
folder of its own; what goes into the store is decided after it (``store/kernels.py``). docs/kernels.md has the whole.
What does not belong here: anything that imports tvm, and files of the store.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mlc_jitd.toolchains.base import Command, Stage, plain

__all__ = ["LAUNCH", "SELF_CHECK", "KernelReport", "accelerated", "read_report", "stage"]

_INSIDE = Path(__file__).parent / "inside"
LAUNCH = _INSIDE / "launch.py"
SELF_CHECK = _INSIDE / "mlc_jitd_kernels" / "selfcheck.py"

MAX_REPORT_BYTES = 4 << 20

_POOLS = frozenset(
    {
        "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS",
        "TVM_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    }
)  # fmt: skip
"""Pools of threads in the compiler's own process. A process with two threads is not forked, and a compile uses none."""

_LINE = re.compile(r"^mlc-jitd kernels: (?P<detail>\d+/\d+, \d+ reused)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """What a compile said of its kernels; ``inside/mlc_jitd_kernels/report.py`` has the meaning of each field.

    Attributes:
        way: Empty where it never came to code generation.
    """

    taken: tuple[str, ...] = ()
    way: Literal["", "kernels", "plain"] = ""
    why: str = ""
    lowered: int = 0
    kernels: int = 0
    reused: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    unkeyed: int = 0
    unkept: int = 0
    failures: int = 0
    saved: float = 0.0
    spent: float = 0.0
    devices: tuple[str, ...] = ()
    devices_reused: tuple[str, ...] = ()


_DECODER = msgspec.json.Decoder(KernelReport)


def accelerated(
    command: Command, *, store: Path, new: Path, identity: str, workers: int, device_identity: str = ""
) -> Command:
    """A compile's command with its code generation taken over.

    Args:
        command: A toolchain's: ``python -P SCRIPT …`` or ``python -P -m MODULE …``.
        store: Folder of known kernels; the compile only reads it.
        new: A folder of this compile alone.
        identity: The build of TVM, as part of each kernel's key.
        workers: How many kernels may be compiled at a time.
        device_identity: The whole toolchain with its host tools: part of the key of what nvcc answers.
    """
    python, safe, *rest = command.argv
    argv = (
        python, safe, str(LAUNCH),
        "--store", str(store), "--new", str(new), "--identity", identity, "--workers", str(workers),
        "--device-identity", device_identity, "--",
        *rest,
    )  # fmt: skip
    env = tuple((name, "1" if name in _POOLS else value) for name, value in command.env)
    return dataclasses.replace(command, argv=argv, env=env)


def stage(line: str) -> Stage | None:
    """The stage that a log line announces: ``23/66, 40 reused``."""
    found = _LINE.match(plain(line))
    return Stage("kernels", found["detail"]) if found else None


def read_report(new: Path) -> KernelReport:
    """What a compile left in its folder; an empty report where it left none that can be read."""
    try:
        with (new / "report.json").open("rb") as file:
            return _DECODER.decode(file.read(MAX_REPORT_BYTES))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return KernelReport()
