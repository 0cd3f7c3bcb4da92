"""Device text -> target, as the toolchain itself sees it; remembered, so that a hit imports no compiler.

What does not belong here: deciding what the request may ask (``arguments``), and the key (``identifier``).
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import ConfigInvalidError, DeviceInvalidError, JitError, ToolchainNotFoundError
from mlc_jit.variables import is_keyed
from mlc_jitd.identity.arguments import suggest_device, upstream_suffix
from mlc_jitd.identity.canonical import digest
from mlc_jitd.identity.flight import SingleFlight
from mlc_jitd.identity.hardware import cpu_identity, gpu_identity
from mlc_jitd.identity.helpers import HelperError, HelperTimeoutError, ask
from mlc_jitd.toolchains import compiler_environment, resolver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jitd.identity.memory import Memory
    from mlc_jitd.identity.toolchain import ToolchainFacts

RESOLVE_SECONDS = 180.0

VISIBILITY: tuple[str, ...] = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
_NO_GPU = ("cpu", "llvm", "android", "iphone", "macabi", "webgpu", "mali", "opencl:generic", "metal:", "vulkan:")


@dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """What a device text means to one toolchain on this host.

    Attributes:
        target: The target with its host, as plain JSON values.
        text: What the compiler gets: a preset's name, or the target as JSON.
        preset: The name, for presets with build rules of their own.
        local: Whether the local CPU was looked at.
        kind: ``llvm``, ``cuda``, ...
        facts: What else of the host reaches the library, such as a loadable CUDA driver.
    """

    target: dict[str, Any]
    text: str
    preset: str | None
    local: bool
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UpstreamName:
    """What upstream's ``jit()`` would call a request's library.

    Attributes:
        device: The device text that it is for: upstream hashes the text.
        md5: The file's stem in ``model_lib``.
        suffix: Its suffix, by upstream's rule.
        prefix: The system library prefix in its result.
    """

    device: str
    md5: str
    suffix: str
    prefix: str | None


class TargetResolver:
    """Asks toolchains about devices, once for each question.

    Args:
        memory: Where answers are kept across restarts.
        seconds: Time limit of one subprocess.
    """

    def __init__(self, memory: Memory, *, seconds: float = RESOLVE_SECONDS) -> None:
        self._memory = memory
        self._seconds = seconds
        self._flight = SingleFlight()

    def resolve(
        self, facts: ToolchainFacts, device: str, *, gpu: bool, environment: Mapping[str, str]
    ) -> ResolvedTarget:
        """The target of a device text.

        Args:
            facts: The toolchain to ask.
            device: As the client gave it.
            gpu: Whether the visible GPUs matter even beside the target (flashinfer, some model types).
            environment: The client's keyed and passed variables.

        Raises:
            DeviceInvalidError: The toolchain knows no such device, or the host has none.
            ToolchainNotFoundError: The toolchain can't be imported.
        """
        question = [
            facts.fingerprint,
            device,
            gpu,
            _relevant(environment),
            cpu_identity(),
            gpu_identity() if gpu or looks_at_gpu(device) else "",
        ]
        return self._flight.do(digest(question), lambda: self._resolve(facts, device, gpu, environment, question))

    def _resolve(
        self, facts: ToolchainFacts, device: str, gpu: bool, environment: Mapping[str, str], question: list[Any]
    ) -> ResolvedTarget:
        known = _target(self._memory.get("target", question))
        if known is not None:
            return known
        answer = self._ask(facts, {"device": device, "gpu": gpu}, environment)
        found = _target(answer)
        if found is None:
            raise DeviceInvalidError(f"{facts.name} resolved {device!r} to something that is no target")
        self._memory.put("target", question, answer)
        return found

    def names(
        self,
        facts: ToolchainFacts,
        devices: tuple[str, ...],
        request: dict[str, Any],
        *,
        environment: Mapping[str, str],
    ) -> tuple[UpstreamName, ...]:
        """Upstream's names for a request, one for each device text.

        Args:
            facts: An ``mlc_llm`` toolchain.
            devices: As the client gave it, and as others may: upstream hashes the text.
            request: ``config`` (text), ``given``, ``overrides``, ``opt``, ``prefix``.
            environment: The client's keyed and passed variables.

        Raises:
            ConfigInvalidError: The toolchain's own classes refuse the config.
        """
        about = [facts.fingerprint, request, _relevant(environment)]

        def named(device: str, answer: Any) -> UpstreamName | None:
            return _name(device, upstream_suffix(device, environment.get("MLC_DSO_SUFFIX")), answer)

        def find() -> tuple[UpstreamName, ...]:
            found = {device: named(device, self._memory.get("name", digest([device, *about]))) for device in devices}
            unknown = [device for device, name in found.items() if name is None]
            if unknown:
                question = {"device": unknown[0], "devices": unknown, "resolve": False, "name": request}
                answer = self._ask(facts, question, environment).get("upstream")
                for device in unknown:
                    plain = answer.get(device) if isinstance(answer, dict) else None
                    found[device] = named(device, plain)
                    if found[device] is None:
                        raise JitError(f"{facts.name} gave no name for this request")
                    self._memory.put("name", digest([device, *about]), plain)
            return tuple(name for name in found.values() if name is not None)

        return self._flight.do(digest([devices, *about]), find)

    def _ask(self, facts: ToolchainFacts, question: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        device = question["device"]
        with tempfile.TemporaryDirectory(prefix="mlc-jitd-resolve-") as scratch:
            env = compiler_environment(tuple(environment.items()), scratch=Path(scratch), cores=1, own=os.environ)
            try:
                answer = ask(facts.python, resolver(facts.name), question, env=env, seconds=self._seconds)
            except HelperTimeoutError as error:
                raise JitError(
                    f"{facts.name} was asked about the device {device!r}, but {error}.",
                    remedy=(
                        "The request may well be right: ask again when the host is less busy, or raise "
                        "MLC_JITD_RESOLVE_SECONDS for the daemon. What hangs on an idle host too is the import or a "
                        f"GPU driver: `{facts.python} -c 'import {facts.name}'`."
                    ),
                    reason="resolve-timed-out",
                ) from error
            except HelperError as error:
                raise DeviceInvalidError(
                    f"{facts.name} could not resolve the device {device!r}: {error}",
                    remedy=f"Try `{facts.python} -c 'import {facts.name}'`, and the device with {facts.name} itself.",
                ) from error
        if "error" in answer:
            raise _refusal(str(answer["error"]), str(answer.get("kind", "")), device, facts)
        return answer


def rests_on_gpus(device: str, *, gpu: bool) -> bool:
    """Whether what a device text resolved to holds only for this host's GPUs: not where it states its own target."""
    return gpu or (looks_at_gpu(device) and not device.lstrip().startswith("{"))


def looks_at_gpu(device: str) -> bool:
    """Whether resolving a device text may look at this host's GPUs. A text that is not known may."""
    return not device.startswith(_NO_GPU)


def _relevant(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in environment.items() if name in VISIBILITY or is_keyed(name))


def _refusal(sentence: str, kind: str, device: str, facts: ToolchainFacts) -> JitError:
    if kind == "config-invalid":
        return ConfigInvalidError(sentence, remedy="Correct mlc-chat-config.json, or make a new one.")
    if kind == "toolchain":
        return ToolchainNotFoundError(
            f"{facts.name} can't be imported by {facts.python}: {sentence}",
            remedy=f"Try `{facts.python} -c 'import {facts.name}'` and install what it misses.",
        )
    return DeviceInvalidError(sentence, remedy=suggest_device(device) if facts.name == "mlc_llm" else "")


def _target(answer: Any) -> ResolvedTarget | None:
    try:
        target, text, local = answer["target"], answer["text"], answer["local"]
        preset = answer.get("preset")
        facts = answer.get("facts") or {}
        kind = answer.get("target", {}).get("kind")
    except (KeyError, TypeError, AttributeError):
        return None
    plausible = isinstance(target, dict) and isinstance(text, str) and isinstance(local, bool) and isinstance(kind, str)
    if not plausible or not isinstance(facts, dict) or not isinstance(preset, str | None):
        return None
    return ResolvedTarget(target, text, preset, local, kind, facts)


def _name(device: str, suffix: str, answer: Any) -> UpstreamName | None:
    try:
        md5, prefix = answer["md5"], answer["prefix"]
    except (KeyError, TypeError):
        return None
    return (
        UpstreamName(device, md5, suffix, prefix) if isinstance(md5, str) and isinstance(prefix, str | None) else None
    )
