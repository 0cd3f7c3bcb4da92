"""The environment variables that reach the compiler: two declared lists, each name with its reason.

``KEYED`` variables change what is compiled, so their values are part of the cache key. ``PASSED`` variables reach the
compiler too, but only what they resolve to (a toolchain, a program, a target) is keyed. Nothing else of a client's
environment leaves it, except the names in ``MLC_JITD_PASS_ENV``. What does not belong here: reading a variable for our
own use, and anything but the standard library, since every client imports this.

Sources: mlc-llm 79d603f0 and apache-tvm 0.26/0.27, read and, where it says so in docs/architecture.md, run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KEYED", "KEYED_PREFIXES", "PASSED", "PASS_ENV", "collect", "is_keyed", "without_startup"]

PASS_ENV = "MLC_JITD_PASS_ENV"  # noqa: S105 - the name of a variable
"""Comma-separated names of further variables to pass. They are not keyed: naming one says that it changes no output."""

KEYED: dict[str, str] = {
    "COMPILER_PATH": "where gcc looks for its parts",
    "CPATH": "headers that nvcc and flashinfer see first",
    "CPLUS_INCLUDE_PATH": "as CPATH, for C++",
    "C_INCLUDE_PATH": "as CPATH, for C",
    "DEVELOPER_DIR": "selects the Xcode that compiles Metal",
    "GCC_EXEC_PREFIX": "where gcc looks for its parts",
    "LD_RUN_PATH": "ends up in the library's run path",
    "LIBRARY_PATH": "what the linker finds",
    "MACOSX_DEPLOYMENT_TARGET": "recorded in a dylib",
    "MLC_MACABI_ARCH": "host triple of the macabi preset",
    "MLC_MULTI_ARCH": "the CUDA architectures in the fatbin",
    "NVCC_APPEND_FLAGS": "nvcc adds them to every command line",
    "NVCC_PREPEND_FLAGS": "nvcc adds them to every command line",
    "SDKROOT": "selects the SDK that the linker uses on macOS",
    "TVM_COMPILE_FORCE_FALLBACK": "forces the slow path of code generation",
    "TVM_CUDA_NVCC_NO_FAST_MATH": "drops --use_fast_math",
    "TVM_CUDA_NVRTC_EXTRA_OPTS": "options of the run-time CUDA compiler",
    "TVM_CUDA_PTXAS_EXTRA_OPTS": "options of ptxas",
    "TVM_CUDA_PTXAS_REG_LEVEL": "register use level of ptxas",
    "TVM_DEVICE_BACKEND_AUTOLOAD": "0 leaves TVM's device backends out",
    "TVM_KERNEL_DEBUG": "adds debug code to CUDA kernels",
    "TVM_KERNEL_DUMP": "adds line information to CUDA kernels",
}

KEYED_PREFIXES: dict[str, str] = {
    "FLASHINFER_": "architectures, flags and sources of flashinfer's own kernels",
}

PASSED: dict[str, str] = {
    "CC": "a program: keyed by its version",
    "CONDA_PREFIX": "a place where MLC's library is looked for: keyed by what is there",
    "CUDA_DEVICE_ORDER": "which GPU an ordinal means: keyed by the resolved target",
    "CUDA_HOME": "a place: keyed by nvcc's version",
    "CUDA_PATH": "a place: keyed by nvcc's version",
    "CUDA_VISIBLE_DEVICES": "which GPU an ordinal means: keyed by the resolved target",
    "CXX": "a program: keyed by its version",
    "DYLD_LIBRARY_PATH": "where libraries are found on macOS",
    "EMSDK": "a place: keyed by emcc's version",
    "EMSDK_NODE": "the program that runs emcc's tools",
    "EM_CONFIG": "emcc's settings",
    "FLASHINFER_LOGGING_LEVEL": "changes messages only",
    "FLASHINFER_WORKSPACE_BASE": "where flashinfer keeps its own cache",
    "GPU_DEVICE_ORDINAL": "as CUDA_VISIBLE_DEVICES, for ROCm",
    "HF_HOME": "where a model type that asks the hub finds its cache",
    "HF_HUB_OFFLINE": "forbids asking the hub",
    "HIP_PATH": "a place: keyed by ROCm's version",
    "HIP_VISIBLE_DEVICES": "as CUDA_VISIBLE_DEVICES, for ROCm",
    "HOME": "where the user's own packages are found: keyed by their builds",
    "LD_LIBRARY_PATH": "where libraries are found",
    "MLC_DSO_SUFFIX": "the suffix, which is in the key with the target",
    "MLC_LIBRARY_PATH": "where MLC's library is found: keyed by its build",
    "MLC_LLM_SOURCE_DIR": "where mlc_wasm_runtime.bc is found: keyed by its bytes",
    "NVIDIA_VISIBLE_DEVICES": "which GPUs a container sees: keyed by the resolved target",
    "NVSHMEM_HOME": "a place of headers and libraries",
    "PATH": "where programs are found: keyed by their versions",
    "PYTHONHOME": "where the interpreter finds its library",
    "PYTHONNOUSERSITE": "which packages are found: keyed by their builds",
    "PYTHONPATH": "which packages are found: keyed by their builds",
    "PYTHONUSERBASE": "which packages are found: keyed by their builds",
    "ROCM_HOME": "a place: keyed by ROCm's version",
    "ROCM_PATH": "a place: keyed by ROCm's version",
    "ROCR_VISIBLE_DEVICES": "as CUDA_VISIBLE_DEVICES, for ROCm",
    "SKIP_LOADING_MLCLLM_SO": "whether MLC's run-time library is loaded; compiling needs none",
    "TVM_CUDA_COMPILE_MODE": "no effect: MLC names nvcc itself (run)",
    "TVM_HOME": "a TVM source tree: keyed by what is built there",
    "TVM_LIBRARY_PATH": "where TVM's libraries are found: keyed by their builds",
    "TVM_NDK_CC": "a program: keyed by its version",
}

_PATH_LISTS = ("PYTHONPATH", "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def is_keyed(name: str) -> bool:
    """Whether a variable's value is part of the cache key."""
    if name in KEYED:
        return True
    return name not in PASSED and name.startswith(tuple(KEYED_PREFIXES))


def collect(environ: Mapping[str, str]) -> dict[str, str]:
    """Those variables of a client's environment that a request carries.

    Relative entries of path lists are made absolute, since the compiler does not run in the client's folder; empty
    entries, which mean the current folder, are dropped.

    Args:
        environ: ``os.environ``, or a dict like it.

    Returns:
        Name to value, in a stable order. Values that are not valid UTF-8 are left out: no message can carry them.
    """
    extra = {name.strip() for name in environ.get(PASS_ENV, "").split(",")}
    prefixes = tuple(KEYED_PREFIXES)
    found: dict[str, str] = {}
    for name in sorted(environ):
        if name in KEYED or name in PASSED or name in extra or name.startswith(prefixes):
            value = environ[name]
            if name == "PYTHONPATH" and STARTUP in value:
                value = without_startup(value)
                if not value:
                    continue
            if name in _PATH_LISTS:
                value = _absolute(value)
            if value.isascii() or _is_text(value):
                found[name] = value
    return found


STARTUP = "/mlc_jit/startup"
"""The end of the folder that ``mlc-jit exec`` puts on PYTHONPATH. It is a way into a process, not a part of what
compiles there: with it, the same question would have another toolchain than without."""


def without_startup(paths: str) -> str:
    """A PYTHONPATH without what ``mlc-jit exec`` put there."""
    if STARTUP not in paths:
        return paths
    return os.pathsep.join(entry for entry in paths.split(os.pathsep) if not entry.rstrip("/").endswith(STARTUP))


def _absolute(paths: str) -> str:
    entries = paths.split(os.pathsep)
    if all(entry.startswith("/") for entry in entries):
        return paths
    return os.pathsep.join(os.path.abspath(entry) for entry in entries if entry)  # noqa: PTH100 - pathlib is slow here


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
