"""The GPUs of this host, through NVML (extra ``gpu``) or, on an Apple machine, by name.

Never opens a context: a context costs hundreds of MB on a device that a serving process may have filled. NVML is opened
and closed for each look, so that the daemon holds no device file and survives a driver that is replaced.

Not guaranteed: that the driver answers quickly; a GPU that fell off its bus can hold a caller up for seconds. Call this
from a thread that may wait.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from typing import TYPE_CHECKING, Any

from mlc_jitd.schedule.host import Device, Gpu

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_PARTITIONS = 16


def gpus(*, host_total: int, host_free: int) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs, and notes on where they came from.

    Args:
        host_total: The host's memory in bytes: the memory of a GPU that shares it.
        host_free: What is free of it.
    """
    if sys.platform == "darwin":
        return _apple(host_total, host_free)
    try:
        import pynvml  # noqa: PLC0415 - an optional extra
    except ImportError:
        return (), ("gpus: none looked for, nvidia-ml-py is not installed (pip install nvidia-ml-py)",)
    try:
        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - a driver may fail in any way; it never takes the daemon with it
        return (), (f"gpus: none, {_what(error)}",)
    try:
        return _nvidia(pynvml, host_total, host_free)
    except Exception as error:  # noqa: BLE001
        return (), (f"gpus: none, the driver failed: {_what(error)}",)
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _apple(host_total: int, host_free: int) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    if platform.machine() != "arm64":
        return (), ("gpus: none looked for on an Intel Mac",)
    gpu = Gpu(
        index=0,
        uuid="apple-integrated",
        model="Apple integrated GPU",
        memory_total=host_total,
        memory_free=host_free,
        integrated=True,
    )
    return (gpu,), ("gpus: one, integrated, every arm64 Mac has it; its memory is the host's",)


def _nvidia(nvml: Any, host_total: int, host_free: int) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    found: list[Gpu] = []
    lost: list[str] = []
    driver = _asked(nvml.nvmlSystemGetDriverVersion) or ""
    count = nvml.nvmlDeviceGetCount()
    for index in range(count):
        try:
            found.append(_gpu(nvml, index, _text(driver), host_total, host_free))
        except Exception as error:  # noqa: BLE001 - one broken GPU does not hide the others
            lost.append(f"gpus: number {index} left out, {_what(error)}")
    return tuple(found), (f"gpus: {len(found)} from NVML, driver {_text(driver) or 'unknown'}", *lost)


def _gpu(nvml: Any, index: int, driver: str, host_total: int, host_free: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _asked(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _asked(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    # Boards whose GPU shares the host's memory answer "not supported" to the question for it.
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        model=_text(_asked(nvml.nvmlDeviceGetName, handle) or "unknown"),
        memory_total=host_total if memory is None else int(memory.total),
        memory_free=host_free if memory is None else int(memory.free),
        compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
        driver=driver,
        integrated=memory is None,
        partitions=_partitions(nvml, handle),
    )


def _partitions(nvml: Any, handle: Any) -> tuple[Device, ...]:
    mode = _asked(nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return ()
    devices: list[Device] = []
    for index in range(min(_MOST_PARTITIONS, _asked(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)):
        part = _asked(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        memory = None if part is None else _asked(nvml.nvmlDeviceGetMemoryInfo, part)
        uuid = None if part is None else _asked(nvml.nvmlDeviceGetUUID, part)
        if memory is None or uuid is None:
            continue
        name = _text(_asked(nvml.nvmlDeviceGetName, part) or "MIG device")
        devices.append(
            Device(uuid=_text(uuid), name=name, memory_total=int(memory.total), memory_free=int(memory.free))
        )
    return tuple(devices)


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """The driver's answer, or ``None`` where it has none (an old driver, a board without the feature)."""
    try:
        return question(*arguments)
    except Exception:  # noqa: BLE001
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
