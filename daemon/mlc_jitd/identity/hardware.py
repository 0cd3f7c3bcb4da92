"""Which CPU and GPUs this host has, as texts that differ when the hardware or its driver does.

Read without a compiler and without opening a device. What does not belong here: what a compiler makes of them.
"""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from pathlib import Path

from mlc_jitd.identity.canonical import digest
from mlc_jitd.identity.stamps import Evidence, presence

NOT_INSTRUCTIONS = frozenset({
    "acpi", "arat", "arch_capabilities", "arch_lbr", "arch_perfmon", "art", "bts", "bus_lock_detect", "constant_tsc",
    "cpuid", "cpuid_fault", "dca", "ds_cpl", "dtes64", "dtherm", "dts", "epb", "ept", "ept_ad", "est", "extapic",
    "extd_apicid", "flexpriority", "flush_l1d", "hfi", "ht", "hwp", "hwp_act_window", "hwp_epp", "hwp_notify",
    "hwp_pkg_req", "hypervisor", "ibpb", "ibrs", "ibrs_enhanced", "ibs", "ida", "intel_ppin", "invpcid_single", "mba",
    "mca", "mce", "md_clear", "mtrr", "nonstop_tsc", "nopl", "npt", "nrip_save", "ospke", "osvw", "pat", "pbe",
    "pcid", "pdcm", "pebs", "perfctr_core", "perfctr_llc", "perfctr_nb", "pge", "pln", "pse", "pse36", "pti", "pts",
    "rep_good", "retpoline", "sev", "sev_es", "skinit", "smap", "smca", "smep", "split_lock_detect", "ss", "ssbd",
    "stibp", "svm", "svm_lock", "syscall", "tce", "tm", "tm2", "topoext", "tpr_shadow", "tsc_deadline_timer",
    "tsc_known_freq", "tsc_reliable", "tsc_scale", "umip", "user_shstk", "vgif", "vmcb_clean", "vme", "vmmcall",
    "vmx", "vnmi", "vpid", "wdt", "x2apic", "x2avic", "xtopology", "xtpr",
})  # fmt: skip
"""Words of /proc/cpuinfo that a kernel makes up or that no code generator looks at: a kernel update adds such."""


GPU_SIGNS: tuple[str, ...] = (
    "/dev/nvidiactl",
    *(f"/dev/nvidia{index}" for index in range(8)),
    "/proc/driver/nvidia/version",
    "/dev/kfd",
    "/dev/dri",
)


def cpu_identity(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The local CPU, all its flags included: the question under which a resolved target is remembered."""
    return digest(_cpu(cpuinfo))


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Digest of the instruction sets that the local CPU offers; a VM may mask some that the CPU's name promises."""
    machine, fields = _cpu(cpuinfo)
    words = set(" ".join(value for name, value in fields if name in {"flags", "Features"}).split())
    if not words:
        return digest([machine, fields])
    return digest([machine, sorted(words - NOT_INSTRUCTIONS)])


@functools.lru_cache(maxsize=8)
def _cpu(cpuinfo: Path) -> tuple[str, tuple[tuple[str, str], ...]]:
    wanted = {
        "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
        "CPU implementer", "CPU part", "CPU variant", "Features",
    }  # fmt: skip
    fields: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        fields = _sysctl()
    return platform.machine(), tuple(sorted(fields.items()))


def _sysctl() -> dict[str, str]:
    if sys.platform != "darwin":
        return {}
    try:
        said = subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition(":") for line in said.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs if "thermal" not in name}


def gpu_identity(
    driver: Path = Path("/proc/driver/nvidia"), devices: Path = Path("/dev"), kfd: Path = Path("/sys/class/kfd/kfd")
) -> str:
    """The host's GPUs and their driver: by NVML where it is installed, else by what the kernel says."""
    return digest([_nvml() or _nvidia_driver(driver), _nodes(devices), _amd(kfd)])


def gpu_evidence() -> Evidence:
    """What comes and goes with a GPU's driver: a cheap sign that ``gpu_identity`` may have changed."""
    return Evidence(tuple(presence(path) for path in GPU_SIGNS))


def _nvml() -> list[str]:
    try:
        import pynvml  # noqa: PLC0415 - an optional package
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = [str(pynvml.nvmlSystemGetDriverVersion())]
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found.append(f"{pynvml.nvmlDeviceGetUUID(handle)} {pynvml.nvmlDeviceGetName(handle)}")
    except pynvml.NVMLError:
        return []
    else:
        return found
    finally:
        pynvml.nvmlShutdown()


def _nvidia_driver(driver: Path) -> list[str]:
    found = []
    for path in [driver / "version", *sorted(driver.glob("gpus/*/information"))]:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [line for line in lines if not line.startswith(("IRQ", "Excluded"))]
    return found


def _nodes(devices: Path) -> list[str]:
    try:
        return sorted(path.name for path in devices.glob("nvidia*"))
    except OSError:
        return []


def _amd(kfd: Path) -> list[str]:
    found = []
    for path in sorted(kfd.glob("topology/nodes/*/properties")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [line for line in lines if line.startswith(("gfx_target_version", "device_id", "unique_id"))]
    return found
