"""Device texts and target JSON to the one CPU target that is compiled for.

A target is always carried with its host, and the two are the same CPU: a target that names none is its own host (MLC
would take the local CPU there), so an explicit `mcpu` is honoured and nothing of the local machine leaks in.

Not here: stdin and stdout (`resolve.py`), arguments (`compile.py`).
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import USE_MLC_LLM, InputError

if TYPE_CHECKING:
    from tvm.target import Target

ONLY_CPUS = "the embedded toolchain compiles for CPUs (cpu, or an llvm target)"

_LOCAL = ("auto", "cpu")

# LLVM's name of a feature -> the kernel's, for those that LLVM uses of its own accord once a CPU's name promises them.
_CPUINFO = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "popcnt": "popcnt",
    "gfni": "gfni",
}


def resolve(device: str) -> tuple[Target, bool]:
    """Turn a device text into a target.

    Args:
        device: `auto`, `cpu`, `cpu:<number>`, `llvm` (any CPU of the local architecture), or a target in JSON.

    Returns:
        the target, and whether the local CPU was looked at.

    Raises:
        InputError: it names no CPU, or TVM can't read it.
    """
    text = device.strip()
    kind, _, ordinal = text.partition(":")
    if kind in _LOCAL and (not ordinal or (kind == "cpu" and ordinal.isdigit())) and not text.endswith(":"):
        return _local(), True
    if text == "llvm":
        return parse('{"kind": "llvm"}'), False
    if text.startswith("{"):
        return parse(text), False
    raise InputError(f"device {device!r} is no CPU: {ONLY_CPUS}; {USE_MLC_LLM}")


def parse(text: str) -> Target:
    """Read a target.

    Args:
        text: a JSON object as TVM's `Target.export()` gives it.

    Raises:
        InputError: as for `resolve`.
    """
    from tvm.target import Target

    try:
        attributes = json.loads(text)
    except ValueError as error:
        raise InputError(f"target is not valid JSON: {error}") from None
    if not isinstance(attributes, dict):
        raise InputError(f"target must be a JSON object, not {text}")
    if attributes.get("kind") != "llvm":
        raise InputError(f"target kind {attributes.get('kind')!r} is no CPU: {ONLY_CPUS}; {USE_MLC_LLM}")
    try:
        target = Target(_with_triple(attributes))
    except Exception as error:  # noqa: BLE001 - ValueError, TypeError and TVM's own InternalError
        raise InputError(f"target {text} is invalid: {_first_line(error)}") from None
    _check_cpu(target)
    alone = Target({name: value for name, value in exported(target).items() if name != "host"})
    if target.host is not None and exported(Target(_with_triple(exported(target.host)))) != exported(alone):
        raise InputError(
            "target and its host differ, which means nothing for a CPU: leave the host out, or repeat the target in it"
        )
    return Target(alone, host=alone)


def exported(target: Target) -> dict[str, Any]:
    """A target as plain JSON values."""
    value: dict[str, Any] = json.loads(json.dumps(dict(target.export()), default=_plain))
    return value


def canonical(target: Target) -> str:
    """The one text of a target: equal targets give equal texts."""
    return json.dumps(exported(target), sort_keys=True)


def architecture(triple: str) -> str:
    """The first part of a triple, with the two names of 64-bit ARM made one."""
    first = triple.partition("-")[0]
    return "aarch64" if first == "arm64" else first


def _local() -> Target:
    """The CPU that this runs on, without the features that a virtual machine masks though the CPU's name has them."""
    from tvm.target import Target
    from tvm.target.codegen import target_has_features

    target = Target.from_device("cpu")
    flags = _flags()
    masked = [
        f"-{name}"
        for name, flag in _CPUINFO.items()
        if flags and flag not in flags and target_has_features(name, target)
    ]
    if masked:
        target = Target({**exported(target), "mattr": masked})
    return Target(target, host=target)


def _flags() -> set[str]:
    if platform.machine() not in ("x86_64", "amd64"):
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _with_triple(attributes: dict[str, Any]) -> dict[str, Any]:
    from tvm.target.codegen import llvm_get_system_triple

    if attributes.get("mtriple"):
        return attributes
    return {**attributes, "mtriple": str(llvm_get_system_triple())}


def _check_cpu(target: Target) -> None:
    """LLVM itself takes an unknown CPU for a generic one, and only says so."""
    from tvm.target.codegen import llvm_get_targets, llvm_is_valid_cpu

    triple, cpu = str(target.attrs["mtriple"]), str(target.attrs.get("mcpu", ""))
    if architecture(triple) not in {architecture(str(name)) for name in llvm_get_targets()}:
        raise InputError(f"target mtriple {triple!r} names an architecture that this LLVM does not know")
    if cpu and not llvm_is_valid_cpu(cpu, triple):
        raise InputError(f"target mcpu {cpu!r} is unknown to LLVM for {triple}")


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else list(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
