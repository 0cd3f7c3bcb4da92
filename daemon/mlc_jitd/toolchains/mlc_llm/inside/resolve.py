"""What mlc_llm makes of a device text: run by the toolchain's interpreter, JSON in on stdin, JSON out on stdout.

Asked ``{"device": ..., "gpu": bool}`` it answers ``{"target", "text", "preset", "local", ...}``; asked with ``"name"``
and ``"devices"`` it also answers, for each of those texts, upstream's md5 of the request and, on mobile, the system
library prefix that ``jit()`` would choose.
All of it comes from the toolchain's own functions. What does not belong here: compiling, and anything of mlc_jitd.

Errors are ``{"error": sentence, "kind": kind}``, never a traceback. The package's ``__init__``, which imports the
whole engine, is left out where that works: it takes most of the time.
"""
# ruff: noqa: SLF001 - upstream's functions for this are private, and using any others would be guessing

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import types
from typing import Any

GENERIC = ("iphone", "macabi", "android", "webgpu", "mali", "opencl")
"""Texts that upstream completes with ``:generic``."""
MOBILE = ("iphone", "macabi", "android")


class RefusedError(Exception):
    """The answer is an error; the text is one sentence for the caller."""

    def __init__(self, sentence: str, kind: str = "device-invalid") -> None:
        super().__init__(sentence)
        self.kind = kind


def slim_package() -> None:
    """Put a bare ``mlc_llm`` in place, so that its submodules import without the engine."""
    spec = importlib.util.find_spec("mlc_llm")
    module = types.ModuleType("mlc_llm")
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec
    sys.modules["mlc_llm"] = module


def exported(target: Any) -> dict[str, Any]:
    """A target's ``export()`` as plain JSON values."""
    return json.loads(json.dumps(_plain(target.export())))


def _plain(value: Any) -> Any:
    if isinstance(value, (str, bool)) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    return str(value)


def resolve(device: str, *, gpu: bool) -> dict[str, Any]:
    """The target of a device text, as the compiler would detect it."""
    auto_target = importlib.import_module("mlc_llm.support.auto_target")
    auto_device = importlib.import_module("mlc_llm.support.auto_device")
    # The compiler asks a second process whether a device exists; this process is already a throw-away one.
    if hasattr(auto_device, "_device_exists"):
        auto_device._device_exists = lambda found: bool(found.exist)
    name = device + ":generic" if device in GENERIC else device
    preset = device if name in auto_target.PRESET else None
    try:
        if device.lstrip().startswith("{"):  # upstream takes JSON with exactly one colon for a device
            target = importlib.import_module("tvm.target").Target(json.loads(device))
        else:
            target, _ = auto_target._detect_target_gpu(device)
    except Exception as error:
        raise RefusedError(_why(error, device)) from error
    detected = preset is None and not device.lstrip().startswith("{")
    local = detected
    if target.host is None:
        host = auto_target._detect_target_host("auto")
        target = type(target)(target, host=host)
        local = True
    plain = exported(target)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    if preset is None:
        again = exported(type(target)(json.loads(text)))
        if again != plain:
            raise RefusedError(f"the target of {device!r} does not survive its own JSON: {text}")
    answer = {"target": plain, "text": preset or text, "preset": preset, "local": local, "kind": target.kind.name}
    if target.kind.name == "cuda":
        answer["facts"] = _cuda_facts(gpu=gpu)
    elif gpu:  # some models ask for this whatever their target
        answer["facts"] = {"local_cuda": exported(type(target)("cuda"))}
    return answer


def _cuda_facts(*, gpu: bool) -> dict[str, Any]:
    import tvm_ffi

    # Without a loadable driver the library silently carries source instead of a fatbin.
    found = tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True)
    facts = {"cuda_module": found is not None}
    if gpu:  # flashinfer compiles for the GPUs that it sees
        facts["visible"] = _visible_architectures()
    return facts


def _visible_architectures() -> list[str]:
    import tvm

    seen = []
    for index in range(64):
        device = tvm.device("cuda", index)
        if not device.exist:
            break
        seen.append(str(device.compute_version))
    return sorted(set(seen))


def _why(error: BaseException, device: str) -> str:
    """One sentence of an exception chain: the innermost reason, without TVM's stack."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return f"mlc_llm can't compile for {device!r}: {reason}"


def upstream_name(name: dict[str, Any], device: str) -> dict[str, Any]:
    """Upstream's md5 of a request, and the prefix that its ``jit()`` would choose on mobile.

    Follows mlc_llm/interface/jit.py (79d603f0), which computes both inside one function.
    """
    models = importlib.import_module("mlc_llm.model").MODELS
    flags = importlib.import_module("mlc_llm.interface.compiler_flags")
    chat = json.loads(name["config"])
    model_type, quantization = chat.pop("model_type"), chat.pop("quantization")
    if model_type not in models:
        raise RefusedError(f"this mlc_llm knows no model type {model_type!r}", "config-invalid")
    merged = chat.pop("model_config", {})
    merged.update(chat)
    merged.update({key: value for key, value in name["given"].items() if value is not None})
    try:
        model_config = models[model_type].config.from_dict(merged).asdict()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise RefusedError(f"mlc_llm refuses this {model_type} config: {reason}", "config-invalid") from error
    key = {
        "model_config": model_config,
        "overrides": name["overrides"],
        "opt": repr(flags.OptimizationFlags.from_str(name["opt"])),
        "device": device,
        "model_type": model_type,
        "quantization": quantization,
    }
    prefix = name["prefix"]
    if device in MOBILE:
        if prefix is None:
            prefix = f"{model_type}_{quantization}_{_md5(key)}".replace("-", "_")
        key["system_lib_prefix"] = prefix
    return {"md5": _md5(key), "prefix": prefix}


def _md5(key: dict[str, Any]) -> str:
    return hashlib.md5(json.dumps(key, sort_keys=True, indent=2).encode()).hexdigest()  # noqa: S324 - upstream's choice


def answer_to(question: dict[str, Any]) -> dict[str, Any]:
    """The whole answer to one question."""
    answer: dict[str, Any] = {}
    if question.get("resolve", True):
        answer = resolve(question["device"], gpu=question.get("gpu", False))
    if question.get("name") is not None:
        answer["upstream"] = {device: upstream_name(question["name"], device) for device in question["devices"]}
    return answer


def main() -> None:
    """One question, one answer on the real stdout; what the compiler prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    whole = sys.argv[1:2] == ["--whole"]
    question = json.loads(sys.argv[2]) if whole else json.load(sys.stdin)
    try:
        if not whole:
            slim_package()
        answer = answer_to(question)
    except RefusedError as error:
        answer = {"error": str(error), "kind": error.kind}
    except Exception as error:  # noqa: BLE001 - an import that fails, most of all
        if not whole:  # another version may need its whole package: once more, in a process that has imported nothing
            os.dup2(out.fileno(), 1)
            os.execv(sys.executable, [sys.executable, "-P", __file__, "--whole", json.dumps(question)])  # noqa: S606 - ourselves
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        answer = {"error": f"{type(error).__name__}: {lines[-1] if lines else 'no message'}", "kind": "toolchain"}
    json.dump(answer, out)
    out.flush()


if __name__ == "__main__":
    main()
