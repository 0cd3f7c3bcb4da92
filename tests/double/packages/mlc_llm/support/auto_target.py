"""Target detection: ``cpu`` and presets, and whatever ``MLC_DOUBLE_RESOLVE`` says.

``MLC_DOUBLE_RESOLVE`` (it reaches us through MLC_JITD_PASS_ENV) may be ``hang``, ``die``, ``exit`` or ``garbage``. Each
resolution appends ``pid resolve`` to the file that ``MLC_DOUBLE_LOG`` names.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tvm.target import Target

PRESET: dict[str, dict[str, Any]] = {
    f"{name}:generic": {"target": {"kind": kind, "host": {"kind": "llvm", "mtriple": triple}}}
    for name, kind, triple in (
        ("iphone", "metal", "arm64-apple-darwin"),
        ("macabi", "metal", "arm64-apple-ios18.0-macabi"),
        ("android", "opencl", "aarch64-linux-android"),
        ("webgpu", "webgpu", "wasm32-unknown-unknown-wasm"),
    )
}
PRESET["android:adreno"] = PRESET["android:generic"]


def _detect_target_gpu(hint: str) -> tuple[Target, object]:
    _behave()
    if hint in ("iphone", "macabi", "android", "webgpu"):
        hint += ":generic"
    if hint in PRESET:
        return Target(PRESET[hint]["target"]), None
    if hint.partition(":")[0] in ("cpu", "auto"):
        return Target.from_device("cpu"), None
    if hint.partition(":")[0] == "cuda":  # as many equal GPUs as wanted
        return Target({"kind": "opencl", "arch": os.environ.get("MLC_DOUBLE_ARCH", "sm_86")}), None
    raise ValueError(f"Invalid target: {hint}")


def _detect_target_host(hint: str) -> Target:
    return Target.from_device("cpu")


def _behave() -> None:
    log = os.environ.get("MLC_DOUBLE_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} resolve\n")
    how = os.environ.get("MLC_DOUBLE_RESOLVE", "")
    if how == "hang":
        time.sleep(3600)
    elif how == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        print("the double does not want to", file=sys.stderr)
        os._exit(3)
    elif how == "garbage":
        os.write(1, b"\xff garbage")
        os._exit(0)
