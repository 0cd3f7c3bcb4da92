"""NVML for real, but for the driver: a stub `libnvidia-ml.so.1` is built here and loaded by nvidia-ml-py itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("pynvml", reason="the extra `gpu` is not installed")

STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
static int number(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }
static int opened;
/* A handle is 1 + index; that of a partition 100 * (1 + index) + its number. */
int nvmlInitWithFlags(unsigned flags) { opened++; return number("STUB_INIT", OK); }
int nvmlShutdown(void) { opened--; return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stub error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "570.86"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("STUB_GPUS", 0); return number("STUB_COUNT", OK); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if ((int)index == number("STUB_LOST", -1)) return LOST;
    *device = (void *)(long)(index + 1);
    return OK;
}
int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    snprintf(out, size, (long)device >= 100 ? "NVIDIA A100 MIG 1g.10gb" : "NVIDIA A100"); return OK;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    long d = (long)device;
    if (d >= 100) snprintf(out, size, "MIG-%ld", d); else snprintf(out, size, "GPU-%ld", d - 1);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    if (getenv("STUB_SHARED")) return NOT_SUPPORTED;
    memory->total = ((long)device >= 100 ? 10ull : 80ull) << 30;
    memory->free = memory->total - ((unsigned long long)number("STUB_USED", 0) << 30);
    memory->used = memory->total - memory->free;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 0; return OK; }
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    if (!getenv("STUB_MIG")) return NOT_SUPPORTED;
    *current = *pending = 1; return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    if ((int)index >= number("STUB_MIG", 0)) return NOT_FOUND;
    *part = (void *)(100 * (long)device + index); return OK;
}
__attribute__((destructor)) static void closed(void) {
    if (opened) fprintf(stderr, "NVML left open %d times\n", opened);
}
"""

SCRIPT = """
import dataclasses, json
from pathlib import Path
from mlc_jitd.schedule.capacity import read
capacity = [read() for _ in range(2)][-1]
loaded = [line for line in Path("/proc/self/maps").read_text().splitlines() if "libcuda" in line]
print(json.dumps([[dataclasses.asdict(gpu) for gpu in capacity.gpus], capacity.notes, loaded]))
"""

Asked = tuple[list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Asked]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler to build the stub library with")
    folder: Path = tmp_path_factory.mktemp("nvml")
    (folder / "stub.c").write_text(STUB)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True, timeout=40)

    def run(**environment: object) -> Asked:
        given = {f"STUB_{name.upper()}": str(value) for name, value in environment.items()}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder), **given},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found, notes, loaded = json.loads(done.stdout)
        assert loaded == []
        return found, notes

    return run


def test_two_gpus_one_partly_used(ask: Callable[..., Asked]) -> None:
    found, notes = ask(gpus=2, used=30)
    assert [gpu["uuid"] for gpu in found] == ["GPU-0", "GPU-1"]
    assert found[0] == {
        "index": 0,
        "uuid": "GPU-0",
        "model": "NVIDIA A100",
        "memory_total": 80 << 30,
        "memory_free": 50 << 30,
        "compute_capability": [8, 0],
        "driver": "570.86",
        "integrated": False,
        "partitions": [],
    }
    assert any("2 from NVML, driver 570.86" in note for note in notes)


def test_partitions_are_named(ask: Callable[..., Asked]) -> None:
    found, _ = ask(gpus=1, mig=2)
    assert [(part["uuid"], part["memory_total"] >> 30) for part in found[0]["partitions"]] == [
        ("MIG-100", 10),
        ("MIG-101", 10),
    ]


def test_a_driver_without_gpus(ask: Callable[..., Asked]) -> None:
    assert ask(gpus=0)[0] == []


def test_a_lost_gpu_does_not_hide_the_others(ask: Callable[..., Asked]) -> None:
    found, notes = ask(gpus=3, lost=1)
    assert [gpu["index"] for gpu in found] == [0, 2]
    assert any("number 1 left out" in note and "lost" in note.lower() for note in notes)


def test_a_gpu_that_shares_the_hosts_memory(ask: Callable[..., Asked]) -> None:
    (gpu,), _ = ask(gpus=1, shared=1)
    assert gpu["integrated"]
    assert gpu["memory_total"] > 0


def test_a_driver_that_fails_is_a_note(ask: Callable[..., Asked]) -> None:
    found, notes = ask(gpus=2, count=999)
    assert found == []
    assert any("the driver failed" in note for note in notes)


def test_no_driver() -> None:
    from mlc_jitd.schedule.capacity import gpus

    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    found, (note,) = gpus.gpus(host_total=1, host_free=1)
    assert found == ()
    assert "LibraryNotFound" in note
