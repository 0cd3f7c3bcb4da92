"""Request -> named key parts -> key, and everything that the compile of it needs.

The order is fixed: everything that the request alone decides is checked first, then the toolchain is probed, then the
target resolved, then the host's tools looked up. What does not belong here: any of those steps; they have rooms.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import ConfigInvalidError
from mlc_jit.variables import is_keyed
from mlc_jitd.identity import arguments
from mlc_jitd.identity.canonical import FORMAT, Part, key_of, part
from mlc_jitd.identity.config import ChatConfig, parse_config
from mlc_jitd.identity.hardware import cpu_features, gpu_evidence
from mlc_jitd.identity.hosttools import HostTools, ToolFinder
from mlc_jitd.identity.memory import Memory
from mlc_jitd.identity.stamps import Checker, Evidence
from mlc_jitd.identity.target import ResolvedTarget, TargetResolver, UpstreamName, rests_on_gpus
from mlc_jitd.identity.toolchain import ToolchainFacts, ToolchainFinder, check_interpreter
from mlc_jitd.toolchains import CompileJob

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlc_jit.messages import JitRequest, ToolchainChoice

LOOKS_AT_LOCAL_GPU = frozenset({"bert", "bert-bge", "llava", "phi3_v"})
"""Model types that ask for the local ``Target("cuda")`` whatever the target is."""

ALIASES = frozenset({"mixformer-sequential"})
"""Model types that the compiler accepts under another name than its table's."""

_ARCHIVES = ("iphone", "macabi", "android:generic", "android:adreno")
_DARWIN_SUFFIX, _SUFFIX = "dylib", "so"


@dataclass(frozen=True, slots=True)
class Identity:
    """What exactly is asked.

    Attributes:
        key: 64 hex digits; equal keys mean interchangeable libraries.
        parts: What the key is made of, in the order of ``canonical.PART_NAMES``.
        suffix: ``so``, ``dylib``, ``tar``, ``wasm``; no dot.
        result_prefix: The ``system_lib_prefix`` that ``JITResult`` carries; given or chosen, used or not.
        toolchain: The compiler, and what proves that it is still the same.
        job: Everything the compile needs, a snapshot.
        model_type: For people.
        quantization: For people.
        evidence: The toolchain's, the host tools', and where they count the GPUs', for ``Identifier.recheck``.
    """

    key: str
    parts: tuple[Part, ...]
    suffix: str
    result_prefix: str | None
    toolchain: ToolchainFacts
    job: CompileJob
    model_type: str
    quantization: str
    evidence: tuple[Evidence, ...] = field(compare=False, repr=False)

    def part(self, name: str) -> Part:
        """One part by its name."""
        return next(p for p in self.parts if p.name == name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request after every check that needs nothing but itself."""

    config: ChatConfig
    overrides: arguments.Overrides
    opt: str
    device: str
    prefix: str | None
    suffix: str
    environment: tuple[tuple[str, str], ...]


class Identifier:
    """Turns requests into identities. Safe for several threads; equal questions run one subprocess.

    Args:
        memory: A folder of our own for what was found out; need not exist, need not be writable.
        resolve_seconds: Time limit for a compiler to be imported and name a target.
    """

    def __init__(self, memory: Path, *, resolve_seconds: float = 180.0) -> None:
        remembered = Memory(memory)
        self._checker = Checker()
        self._toolchains = ToolchainFinder(remembered, self._checker)
        self._targets = TargetResolver(remembered, seconds=resolve_seconds)
        self._tools = ToolFinder(remembered)

    def identify(self, request: JitRequest) -> Identity:
        """The identity of a request: milliseconds when warm, seconds when a compiler must be asked.

        Raises:
            ConfigInvalidError: The config is broken, incomplete, or names what the toolchain does not know.
            OverrideInvalidError: An override, the opt level or the prefix is unknown or has a bad value.
            DeviceInvalidError: The toolchain can't compile for the device, or can't say.
            ToolchainNotFoundError: The interpreter is none, or has no such compiler.
        """
        asked = _check(request)
        check_interpreter(request.python)
        facts = self._toolchains.find(request.python, request.toolchain, dict(asked.environment))
        _check_known(asked.config, facts)
        asked = _with_overrides(asked, request, facts)
        gpu = _minds_gpus(asked, facts)
        gpus = (gpu_evidence(),) if rests_on_gpus(asked.device, gpu=gpu) else ()  # taken before they are looked at
        target = self._targets.resolve(facts, asked.device, gpu=gpu, environment=dict(asked.environment))
        tools = self._tools.find(
            kind=target.kind, preset=target.preset, suffix=asked.suffix, env=dict(asked.environment)
        )
        prefix = asked.prefix
        if prefix is None and asked.device in arguments.MOBILE and facts.name == "mlc_llm":
            prefix = self._upstream(asked, facts, (asked.device,))[0].prefix
        return _identity(asked, facts, target, tools, prefix, gpus=gpus)

    def toolchain(self, python: str, choice: ToolchainChoice, environment: Mapping[str, str]) -> ToolchainFacts:
        """The compiler that an interpreter has.

        Raises:
            ToolchainNotFoundError: It has none of that kind, or is no interpreter.
        """
        check_interpreter(python)
        return self._toolchains.find(python, choice, dict(environment))

    def recheck(self, identity: Identity) -> bool:
        """Whether the toolchain, the host's tools and its GPUs are still what the identity says, by stat alone.

        Not guaranteed: a file of an installed package rewritten in place counts only after up to
        ``stamps.SOMETIMES_SECONDS``.
        """
        return self._checker.holds(*identity.evidence)

    def recheck_thoroughly(self, identity: Identity) -> bool:
        """As ``recheck``, every file at once: before a compile's result is published."""
        return self._checker.holds(*identity.evidence, thoroughly=True)

    def edits(self, before: str, now: str) -> tuple[str, ...] | None:
        """The files that changed between two fingerprints of a toolchain; ``None`` where that was not seen here."""
        return self._toolchains.edits(before, now)

    def upstream_names(self, request: JitRequest, *devices: str) -> tuple[UpstreamName, ...]:
        """The names under which upstream's own ``jit()`` would look for this library; slow when not remembered.

        Args:
            request: What is asked.
            devices: Further device texts for the same device: upstream takes each for another one.

        Returns:
            The one for the request's own device text, then the others; empty for a toolchain that upstream does not
            know.

        Raises:
            JitError: As ``identify``.
        """
        asked = _check(request)
        facts = self._toolchains.find(request.python, request.toolchain, dict(asked.environment))
        if facts.name != "mlc_llm":
            return ()
        _check_known(asked.config, facts)
        texts = tuple(dict.fromkeys((asked.device, *devices)))
        return self._upstream(_with_overrides(asked, request, facts), facts, texts)

    def _upstream(self, asked: _Asked, facts: ToolchainFacts, devices: tuple[str, ...]) -> tuple[UpstreamName, ...]:
        question = {
            "config": asked.config.raw.decode(),
            "given": dict(asked.overrides.given),
            "overrides": asked.overrides.text,
            "opt": asked.opt,
            "prefix": asked.prefix,
        }
        return self._targets.names(facts, devices, question, environment=dict(asked.environment))


def _check(request: JitRequest) -> _Asked:
    config = parse_config(request.config)
    arguments.check_overrides(request.overrides)
    opt = arguments.parse_opt(request.opt)
    arguments.check_prefix(request.system_lib_prefix)
    arguments.check_device(request.device)
    arguments.check_environment(request.environment)
    return _Asked(
        config=config,
        overrides=arguments.parse_overrides({}),
        opt=opt,
        device=request.device,
        prefix=request.system_lib_prefix,
        suffix=_suffix(request.device, request.environment.get("MLC_DSO_SUFFIX")),
        environment=tuple(sorted(request.environment.items())),
    )


def _with_overrides(asked: _Asked, request: JitRequest, facts: ToolchainFacts) -> _Asked:
    """The overrides too, by the fields that the toolchain's own class has."""
    known = arguments.OVERRIDES if facts.overrides is None else dict(facts.overrides)
    found = arguments.parse_overrides(request.overrides, known, whose=facts.name)
    return replace(asked, overrides=found)


def _minds_gpus(asked: _Asked, facts: ToolchainFacts) -> bool:
    """Whether the visible GPUs matter whatever the device is."""
    has_flashinfer = any(name == "flashinfer" for name, _ in facts.versions)
    return facts.name == "mlc_llm" and (has_flashinfer or asked.config.model_type in LOOKS_AT_LOCAL_GPU)


def _suffix(device: str, wanted: str | None) -> str:
    """Upstream's rule, and where upstream's own assertion would refuse its choice, the one that works."""
    if device in arguments.MOBILE or device in _ARCHIVES or device.startswith(("iphone:", "macabi:")):
        return "tar"
    if wanted is not None:
        return arguments.check_suffix(wanted)
    if device.startswith("webgpu"):
        return "wasm"
    if device == "metal:x86-64":
        return _DARWIN_SUFFIX
    if device.startswith(("android", "mali")):
        return _SUFFIX
    return _DARWIN_SUFFIX if sys.platform == "darwin" else _SUFFIX


def _check_known(config: ChatConfig, facts: ToolchainFacts) -> None:
    for what, name, known in (
        ("model type", config.model_type, facts.model_types),
        ("quantization", config.quantization, facts.quantizations),
    ):
        if known is not None and name not in known and name not in ALIASES:
            raise ConfigInvalidError(
                f"this mlc_llm knows no {what} {name!r}",
                remedy=arguments.suggest(name, known) or f"It knows: {', '.join(sorted(known))}.",
            )


def _identity(
    asked: _Asked,
    facts: ToolchainFacts,
    target: ResolvedTarget,
    tools: HostTools,
    prefix: str | None,
    *,
    gpus: tuple[Evidence, ...],
) -> Identity:
    config = asked.config
    compiler_prefix = f"{prefix}_" if prefix else None
    keyed = {name: value for name, value in asked.environment if is_keyed(name)}
    target_value = {
        "target": target.target,
        "preset": target.preset,
        "suffix": asked.suffix,
        "cpu": cpu_features() if target.local else None,
        "facts": target.facts,
    }
    parts = (
        part("format", FORMAT),
        part("model", config.key_value()),
        part("overrides", dict(asked.overrides.values)),
        part("opt", asked.opt),
        part("prefix", _effective_prefix(asked.device, compiler_prefix)),
        part("target", target_value),
        part("toolchain", {**facts.value, "tools": tools.versions}),
        part("environment", keyed),
    )
    job = CompileJob(
        toolchain=facts.name,
        python=facts.python,
        config=config.raw,
        overrides=asked.overrides.text,
        opt=asked.opt,
        device=target.text,
        compiler_prefix=compiler_prefix,
        suffix=asked.suffix,
        environment=asked.environment,
    )
    return Identity(
        key=key_of(parts),
        parts=parts,
        suffix=asked.suffix,
        result_prefix=prefix,
        toolchain=facts,
        job=job,
        model_type=config.model_type,
        quantization=config.quantization,
        evidence=(*facts.evidence, tools.evidence, *gpus),
    )


def _effective_prefix(device: str, compiler_prefix: str | None) -> Any:
    """What ``--system-lib-prefix`` does for a device (``detect_system_lib_prefix``): honoured, dropped, or chosen."""
    if device.startswith(arguments.MOBILE) and compiler_prefix is None:
        return {"chosen by": "model type and quantization"}
    return compiler_prefix if device in arguments.MOBILE else None
