"""A client's request as a daemon of many users takes it: data stays, whatever would be executed is replaced. Pure.

The interpreter is one of the administrator's list, chosen by its name or path. No variable of the client reaches a
compiler but those of a declared list, whose values are words, never paths. The model's folder becomes a label before
anything else sees it: so no reply, log, manifest or event can tell one user where another one's models lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import ConfigInvalidError, DeviceInvalidError, RequestError
from mlc_jit.variables import is_keyed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jit import messages as m
    from mlc_jitd.named import Named

MAX_CONFIG_BYTES = 128 << 10
"""Real configs have 2 to 5 KB."""

LABELS = 4096
"""Labels of which it is known who asked under them, for the audit."""

PLACES = frozenset({
    "COMPILER_PATH", "CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH", "DEVELOPER_DIR", "GCC_EXEC_PREFIX", "LD_RUN_PATH",
    "LIBRARY_PATH", "SDKROOT",
})  # fmt: skip
"""Keyed variables that say where a client's own tools are: what compiles here has its own."""

DEFAULT_VARIABLES = (
    "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES",
    "MACOSX_DEPLOYMENT_TARGET", "MLC_DSO_SUFFIX", "MLC_MACABI_ARCH", "MLC_MULTI_ARCH", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "TVM_COMPILE_FORCE_FALLBACK", "TVM_CUDA_NVCC_NO_FAST_MATH", "TVM_CUDA_PTXAS_REG_LEVEL",
    "TVM_KERNEL_DEBUG",
)  # fmt: skip
"""Variables whose values are numbers or names: they choose, and lead to no file and no program."""

_VALUE = re.compile(r"[\w,.:;+=-]{0,256}", re.ASCII)
_DEVICE = re.compile(r"[\w:.-]{1,64}", re.ASCII)
_TARGET_FIELD = re.compile(
    r"kind|tag|keys|device|model|host|mtriple|mcpu|mattr|mabi|mfloat-abi|num-cores|arch|vector-width|opt-level"
    r"|thread_warp_size|l2_cache_size_bytes|registers_per_block|(?:supports|max|min|vulkan|driver)_\w+|fast-math[\w-]*",
    re.ASCII,
)
"""Fields of a target that describe a device. Others (``cl-opt``, ``libs``) are options of the compiler's own parts."""

_FOR_PEOPLE = re.compile(rb'"(model_type|quantization)"\s*:\s*"([\w.-]{1,40})"')
_LABEL_BYTES = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked under a label, by the kernel's word, and the model's folder by the client's."""

    uid: int
    pid: int
    folder: str


class Desk:
    """Takes requests in; used by one thread, but for ``asked``.

    Args:
        toolchains: The first serves who names none.
        variables: Which of a client's variables count.
        path: ``PATH`` of compiles whose toolchain names none.
        secret: Makes labels that nobody can work out from a path.
    """

    def __init__(self, toolchains: tuple[Named, ...], variables: frozenset[str], *, path: str, secret: bytes) -> None:
        self._toolchains = toolchains
        self._variables = variables
        self._secret = secret
        self._base = {"HF_HUB_OFFLINE": "1", "PATH": path}
        self._asked: OrderedDict[str, Asked] = OrderedDict()

    def taken(self, uid: int, pid: int, request: m.JitRequest) -> m.JitRequest:
        """The request with nothing in it that a client may not say.

        Raises:
            RequestError: It asks for something that can't be had here; what would only be another place is replaced.
        """
        if len(request.config) > MAX_CONFIG_BYTES:
            raise ConfigInvalidError(
                f"The config has {len(request.config)} bytes; this daemon takes {MAX_CONFIG_BYTES}.",
                remedy="Make it anew with `mlc_llm gen_config`.",
            )
        check_device(request.device)
        named = self._choose(request.python)
        return dataclasses.replace(
            request,
            python=named.python,
            toolchain=request.toolchain if named.toolchain == "auto" else named.toolchain,
            environment={**self._base, **dict(named.environment), **self._declared(request.environment)},
            model_path=self._label(uid, pid, request),
        )

    def asked(self, label: str) -> Asked | None:
        """Who asked last under a label; ``None`` if that is forgotten."""
        return self._asked.get(label)

    def _choose(self, python: str) -> Named:
        for each in self._toolchains:
            if python in (each.name, each.python):
                return each
        return self._toolchains[0]

    def _declared(self, given: Mapping[str, str]) -> dict[str, str]:
        found = {}
        for name, value in given.items():
            if name not in self._variables:
                if is_keyed(name) and name not in PLACES:
                    raise RequestError(
                        f"{name} is set, and changes what is compiled; this host's daemon does not take it.",
                        remedy=f"Unset {name}, or have it listed under `client_variables` in that daemon's settings.",
                        reason="variable",
                    )
            elif _VALUE.fullmatch(value) is None:
                raise RequestError(
                    f"{name} has a value that this host's daemon does not take: {value[:60]!r}.",
                    remedy="Words, numbers and `,.:;+=-` are taken.",
                    reason="variable",
                )
            else:
                found[name] = value
        return found

    def _label(self, uid: int, pid: int, request: m.JitRequest) -> str:
        known = {name: word.decode() for name, word in reversed(_FOR_PEOPLE.findall(request.config))}
        words = [known[name] for name in (b"model_type", b"quantization") if name in known]
        whose = f"{uid}:{request.model_path}".encode(errors="replace")
        digest = hashlib.blake2b(whose, key=self._secret, digest_size=_LABEL_BYTES)
        label = "-".join((*words, digest.hexdigest()))
        self._asked[label] = Asked(uid, pid, request.model_path)
        self._asked.move_to_end(label)
        if len(self._asked) > LABELS:
            self._asked.popitem(last=False)
        return label


def check_device(device: str) -> None:
    """Refuse a device text with options of the compiler's own parts, which can name files.

    Raises:
        DeviceInvalidError: It is neither a name nor a target made of fields that describe a device.
    """
    if not device.lstrip().startswith("{"):
        if device and _DEVICE.fullmatch(device) is None:
            raise DeviceInvalidError(
                f"This host's daemon does not take the device {device[:60]!r}.",
                remedy="Name a device such as cpu or cuda:0, or give a target as JSON.",
            )
        return
    try:
        odd = _odd_field(json.loads(device))
    except (ValueError, RecursionError):
        return  # no JSON: said in better words further on
    if odd:
        raise DeviceInvalidError(
            f"This host's daemon takes no target with {odd[:40]!r}.",
            remedy="Leave it out: a target describes a device.",
        )


def _odd_field(target: Any) -> str:
    if not isinstance(target, dict):
        return ""
    for name, value in target.items():
        if _TARGET_FIELD.fullmatch(name) is None:
            return str(name)
        odd = _odd_field(value)
        if odd:
            return odd
    return ""
