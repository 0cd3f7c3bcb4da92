"""The compile's other arguments: overrides, optimisation level, library prefix, device text.

Each is checked as upstream's argparse would, and normalised, so that two spellings of one thing share a key. What does
not belong here: subprocesses; everything in this file is decided from the request alone.

Sources: mlc_llm/interface/jit.py, compiler_flags.py and cli/compile.py at 79d603f0.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import DeviceInvalidError, OverrideInvalidError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

OVERRIDES: dict[str, str] = {
    "context_window_size": "int",
    "sliding_window_size": "int",
    "prefill_chunk_size": "int",
    "attention_sink_size": "int",
    "max_batch_size": "int",
    "tensor_parallel_shards": "int",
    "pipeline_parallel_stages": "int",
    "disaggregation": "bool",
}
"""Name and type, in the order of upstream's ``ModelConfigOverride``, which is the order on the command line. Where a
toolchain's own class can be read, that one counts."""

MINUS_ONE_MEANS_ABSENT = frozenset({"context_window_size", "sliding_window_size", "attention_sink_size"})

PRESETS: tuple[str, ...] = ("O0", "O1", "O2", "O3")
DEFAULT_OPT = "O2"
BOOLEAN_FLAGS: tuple[str, ...] = ("flashinfer", "cublas_gemm", "faster_transformer", "cudagraph", "cutlass")
STRATEGIES: tuple[str, ...] = ("NONE", "ONESHOT", "TWOSHOT", "AUTO")
FLAGS: tuple[str, ...] = (*BOOLEAN_FLAGS, "ipc_allreduce_strategy")

MOBILE: tuple[str, ...] = ("iphone", "macabi", "android")
"""The three texts for which upstream makes a ``.tar`` and honours a prefix; exactly these, no variant."""

KNOWN_DEVICES: tuple[str, ...] = (
    "auto", "cpu", "cuda", "rocm", "metal", "vulkan", "opencl", "llvm", "webgpu", "mali", "iphone", "macabi", "android",
    "android:adreno", "android:adreno-so", "metal:generic", "metal:x86-64", "vulkan:generic", "opencl:generic",
)  # fmt: skip
"""For suggestions; the toolchain decides what it knows."""

MAX_DEVICE_LENGTH = 8192

Override = int | bool | float | str

_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SUFFIX = re.compile(r"[a-zA-Z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Overrides:
    """Normalised overrides.

    Attributes:
        values: Name and value in upstream's order, without those that mean "not given".
        text: The same as ``--overrides`` wants it.
        given: What ``jit()`` would merge into the model config, -1 included; upstream's md5 needs it.
    """

    values: tuple[tuple[str, Override], ...]
    text: str
    given: tuple[tuple[str, Override], ...]


def parse_overrides(
    overrides: Mapping[str, Any], known: Mapping[str, str] = OVERRIDES, *, whose: str = "mlc_llm"
) -> Overrides:
    """Check and normalise the overrides of a request.

    Args:
        overrides: As given; ``None`` values count as absent.
        known: Name and type (``int``, ``bool``, ``float``, or another word for text) of each field, in its order.
        whose: The toolchain that knows these, for the error.

    Raises:
        OverrideInvalidError: An unknown name, or a value that upstream's command line would refuse.
    """
    for name, value in overrides.items():
        if name not in known and value is not None:
            raise OverrideInvalidError(
                f"this {whose} knows no override {name[:60]!r}",
                remedy=suggest(name, known) or f"It knows: {', '.join(known)}.",
            )
    given: list[tuple[str, Override]] = []
    for name, kind in known.items():
        value = overrides.get(name)
        if value is not None:
            given.append((name, _TYPED.get(kind, _text)(name, value)))
    values = tuple((n, v) for n, v in given if not (n in MINUS_ONE_MEANS_ABSENT and v == -1))
    return Overrides(values, ";".join(f"{n}={v}" for n, v in values), tuple(given))


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse a bad value of an override that every toolchain has, before any is asked.

    Raises:
        OverrideInvalidError: As ``parse_overrides``; an unknown name is left to the toolchain.
    """
    parse_overrides({name: value for name, value in overrides.items() if name in OVERRIDES})


def _integer(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise OverrideInvalidError(f"override {name}={value!r} is not an integer", remedy=f"Give {name} as a whole number.")


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower() if isinstance(value, int | str) else ""
    if text in {"true", "1", "yes"}:
        return True
    if text in {"false", "0", "no"}:
        return False
    raise OverrideInvalidError(f"override {name}={value!r} is not a boolean", remedy=f"Give {name} as true or false.")


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise OverrideInvalidError(f"override {name}={value!r} is not a number", remedy=f"Give {name} as a number.")


def _text(name: str, value: object) -> str:
    text = str(value)
    if not text or any(each in text for each in ";\n\0"):  # `;` ends an override on the compiler's command line
        raise OverrideInvalidError(
            f"override {name}={value!r} can't be written on the compiler's command line",
            remedy=f"Give {name} as text without semicolons and line breaks.",
        )
    return text


_TYPED: dict[str, Callable[[str, object], Override]] = {
    "int": _integer,
    "bool": _boolean,
    "float": _number,
}


def parse_opt(opt: str) -> str:
    """Check and normalise an optimisation level.

    A preset stays a name: what it stands for is the toolchain's to say. Of flags given twice the last counts, and an
    abbreviation means the only flag that begins so, as with upstream's argparse.

    Raises:
        OverrideInvalidError: Neither a preset nor flags.
    """
    if not opt:
        return DEFAULT_OPT
    if opt in PRESETS:
        return opt
    known = f"Give one of {', '.join(PRESETS)}, or flags such as `flashinfer=1;cudagraph=0`."
    flags: dict[str, str] = {}
    for item in opt.split(";"):
        if not item:
            continue
        name, equals, value = item.partition("=")
        if not equals:
            remedy = suggest(opt, PRESETS) if ";" not in opt else ""
            raise OverrideInvalidError(f"opt {opt!r} is no optimisation level", remedy=remedy or known)
        matches = [name] if name in FLAGS else [flag for flag in FLAGS if name and flag.startswith(name)]
        if len(matches) != 1:
            raise OverrideInvalidError(f"unknown flag {name!r} in opt {opt!r}", remedy=suggest(name, FLAGS) or known)
        allowed = ("0", "1") if matches[0] in BOOLEAN_FLAGS else STRATEGIES
        if value not in allowed:
            raise OverrideInvalidError(
                f"flag {matches[0]}={value} in opt has no such value", remedy=f"Its values are: {', '.join(allowed)}."
            )
        flags[matches[0]] = value
    if not flags:
        raise OverrideInvalidError(f"opt {opt!r} is no optimisation level", remedy=known)
    return ";".join(f"{flag}={flags[flag]}" for flag in FLAGS if flag in flags)


def check_prefix(prefix: str | None) -> None:
    """Refuse a system library prefix that upstream's command line would refuse.

    Raises:
        OverrideInvalidError: Not a C identifier.
    """
    if prefix and not _PREFIX.fullmatch(prefix):
        raise OverrideInvalidError(
            f"system_lib_prefix {prefix!r} is not a C identifier",
            remedy="Use letters, digits and underscores, not beginning with a digit.",
        )


def check_device(device: str) -> None:
    """Refuse a device text that no toolchain can mean, without asking one.

    Raises:
        DeviceInvalidError: Empty, too long, or JSON that is no target.
    """
    if not device.strip() or "\0" in device:
        raise DeviceInvalidError("the device is an empty text", remedy=_DEVICE_REMEDY)
    if device.startswith("-") or len(device) > MAX_DEVICE_LENGTH:
        raise DeviceInvalidError(f"device {device[:60]!r} names no device", remedy=_DEVICE_REMEDY)
    if device.lstrip().startswith("{"):
        try:
            target = json.loads(device)
        except ValueError as error:
            raise DeviceInvalidError(
                f"the device {device[:60]!r} is not a valid JSON target: {error}", remedy=_DEVICE_REMEDY
            ) from error
        if not isinstance(target, dict) or not isinstance(target.get("kind"), str):
            raise DeviceInvalidError(
                f"the device {device[:60]!r} is a JSON target without a `kind`", remedy=_DEVICE_REMEDY
            )


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables that no process can be given.

    Raises:
        RequestError: A name or value that the kernel does not take.
    """
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise RequestError(f"the environment variable {name!r} can't be passed to a compiler")


_DEVICE_REMEDY = 'Name a device such as cpu, cuda:0, metal or android, or give a target as JSON with a "kind".'


def suggest_device(device: str) -> str:
    """A sentence that helps with a device text which the toolchain refused."""
    if device in KNOWN_DEVICES or device.partition(":")[0] in KNOWN_DEVICES:
        return (
            "This host shows the compiler no such device. To compile for one elsewhere, give its target as JSON, such "
            'as {"kind": "cuda", "arch": "sm_86"}.'
        )
    return suggest(device, KNOWN_DEVICES) or _DEVICE_REMEDY


def check_suffix(suffix: str) -> str:
    """The library's suffix, from MLC_DSO_SUFFIX.

    Raises:
        RequestError: It can't be a file's suffix.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise RequestError(
            f"MLC_DSO_SUFFIX={suffix!r} is not a file suffix", remedy="Unset it, or set it to so, dylib or wasm."
        )
    return suffix


def upstream_suffix(device: str, wanted: str | None) -> str:
    """The suffix under which upstream's own ``jit()`` looks for a library."""
    if device in MOBILE:
        return "tar"
    return wanted or ("dylib" if sys.platform == "darwin" else "so")


def suggest(name: str, known: Iterable[str]) -> str:
    """``Did you mean ...?``, or an empty text where nothing known is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"Did you mean {near[0]!r}?" if near else ""
