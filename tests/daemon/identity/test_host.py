"""The host's part of a key: its CPU, its GPUs, its compilers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlc_jitd.identity.hardware import cpu_features, cpu_identity, gpu_identity
from mlc_jitd.identity.hosttools import ABSENT, ToolFinder
from mlc_jitd.identity.memory import Memory
from mlc_jitd.identity.stamps import Checker
from mlc_jitd.identity.target import looks_at_gpu, rests_on_gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier

CPU = "processor : 0\nmodel name : A CPU\nflags : fpu sse2 avx2{}\nbugs : some\ncpu MHz : {}\n\nprocessor : 1\n"


@pytest.fixture
def cpu(tmp_path: Path) -> Callable[..., Path]:
    def make(flags: str = "", mhz: int = 1000) -> Path:
        path = tmp_path / f"cpuinfo {flags} {mhz}"
        path.write_text(CPU.format(flags, mhz))
        return path

    return make


def test_a_masked_instruction_set_is_another_cpu(cpu: Callable[..., Path]) -> None:
    assert cpu_features(cpu(" avx512f")) != cpu_features(cpu())
    assert cpu_identity(cpu(" avx512f")) != cpu_identity(cpu())


def test_clock_order_and_a_kernels_own_words_do_not_count(cpu: Callable[..., Path], tmp_path: Path) -> None:
    assert cpu_features(cpu(mhz=2000)) == cpu_features(cpu())
    assert cpu_features(cpu(" md_clear ibrs hypervisor")) == cpu_features(cpu())
    turned = tmp_path / "turned"
    turned.write_text(CPU.format("", 1).replace("fpu sse2 avx2", "avx2 fpu sse2"))
    assert cpu_features(turned) == cpu_features(cpu())


def test_a_host_without_cpuinfo_has_an_identity_too(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "none") == cpu_features(tmp_path / "none")


def test_the_cpu_is_in_the_target_part_where_the_local_one_was_looked_at(
    identifier: Identifier, ask: Callable[..., JitRequest], cpu: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, phone = (identifier.identify(ask(device=device)) for device in ("cpu", "android"))
    other = cpu(" another_instruction_set")
    monkeypatch.setattr("mlc_jitd.identity.identifier.cpu_features", lambda: cpu_features(other))
    assert identifier.identify(ask()).key != here.key
    assert identifier.identify(ask(device="android")).key == phone.key


def test_gpus_and_driver_are_told_apart(tmp_path: Path) -> None:
    driver = tmp_path / "nvidia"
    gpu = driver / "gpus" / "0000:01:00.0"
    gpu.mkdir(parents=True)
    (driver / "version").write_text("NVRM version: 550\n")
    (gpu / "information").write_text("Model: A\nIRQ: 7\nGPU UUID: GPU-1\n")

    def identity() -> str:
        return gpu_identity(driver, tmp_path / "no dev", tmp_path / "no kfd")

    first = identity()
    (gpu / "information").write_text("Model: A\nIRQ: 9\nGPU UUID: GPU-1\n")
    assert identity() == first
    (driver / "version").write_text("NVRM version: 560\n")
    second = identity()
    (gpu / "information").write_text("Model: B\nIRQ: 9\nGPU UUID: GPU-2\n")
    assert len({first, second, identity()}) == 3


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "llvm", "android", "iphone", "webgpu", "metal:generic"])
def test_these_devices_look_at_no_gpu(device: str) -> None:
    assert not looks_at_gpu(device)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:3", "rocm", "metal", "vulkan", "opencl", '{"kind": "cuda"}'])
def test_these_may(device: str) -> None:
    assert looks_at_gpu(device)


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\ncase "$1" in -print-prog-name=ld) echo ld;; *) echo "{says}";; esac\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def finder(tmp_path: Path) -> ToolFinder:
    return ToolFinder(Memory(tmp_path / "memory"))


def find(finder: ToolFinder, env: dict[str, str], **more: str | None) -> dict[str, str]:
    given = {"kind": "llvm", "preset": None, "suffix": "so", **more}
    return finder.find(env=env, **given).versions  # type: ignore[arg-type]


def test_the_compiler_is_found_as_tvm_finds_it(finder: ToolFinder, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    program(one, "gcc", "gcc 1")
    program(one, "clang", "clang 1")
    env = {"PATH": f"{one}:{two}"}
    assert find(finder, env)["c++"].startswith("gcc 1")
    program(two, "g++", "g++ 2")  # a better name in a later folder
    assert find(finder, env)["c++"].startswith("g++ 2")
    assert find(finder, {**env, "CC": "clang"})["c++"].startswith("clang 1")
    assert find(finder, {**env, "CC": "clang", "CXX": str(one / "gcc")})["c++"].startswith("gcc 1")
    assert find(finder, {**env, "CXX": "/nowhere/g++"})["c++"] == ABSENT
    assert find(finder, {"PATH": "/nowhere"})["c++"] == ABSENT


def test_an_upgraded_compiler_or_linker_is_noticed(finder: ToolFinder, tmp_path: Path) -> None:
    folder, checker = tmp_path / "bin", Checker()
    program(folder, "g++", "g++ 1")
    program(folder, "ld", "ld 1")
    env = {"PATH": str(folder)}
    first = finder.find(kind="llvm", preset=None, suffix="so", env=env)
    assert "ld 1" in first.versions["c++"]
    assert checker.holds(first.evidence, thoroughly=True)
    program(folder, "ld", "ld 22")
    assert not checker.holds(first.evidence)
    second = finder.find(kind="llvm", preset=None, suffix="so", env=env)
    assert "ld 22" in second.versions["c++"]
    program(folder, "g++", "g++ 22")
    assert not checker.holds(second.evidence)


def test_a_compiler_that_would_now_be_found_first_is_noticed(finder: ToolFinder, tmp_path: Path) -> None:
    early, late, checker = tmp_path / "early", tmp_path / "late", Checker()
    early.mkdir()
    program(late, "g++", "g++ 1")
    tools = finder.find(kind="llvm", preset=None, suffix="so", env={"PATH": f"{early}:{late}"})
    program(early, "g++", "g++ 2")
    assert not checker.holds(tools.evidence, thoroughly=True)


def test_versions_hold_no_places(finder: ToolFinder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        program(tmp_path / name, "g++", "g++ 1")
        program(tmp_path / name, "ld", "ld 1")
    one, two = (find(finder, {"PATH": str(tmp_path / name)}) for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("question", "tools"),
    [
        ({"suffix": "tar", "preset": "android", "kind": "opencl"}, set()),
        ({"kind": "cuda"}, {"c++", "nvcc"}),
        ({"preset": "android:adreno-so", "kind": "opencl"}, {"ndk"}),
        ({"preset": "mali", "kind": "opencl"}, {"c++"}),
        ({"preset": "webgpu", "suffix": "wasm", "kind": "webgpu"}, {"emcc", "mlc_wasm_runtime.bc"}),
        ({"kind": "rocm"}, {"c++", "ld.lld", "rocm"}),
    ],
)
def test_each_target_has_its_tools(finder: ToolFinder, question: dict[str, str], tools: set[str]) -> None:
    found = find(finder, {"PATH": "/nowhere"}, **question)
    assert tools <= found.keys()
    assert set(found.values()) <= {ABSENT}
    assert len(found) == len(tools) or "emcc" in tools


def test_the_wasm_runtime_counts_by_its_bytes(finder: ToolFinder, tmp_path: Path) -> None:
    bitcode = tmp_path / "web" / "dist" / "wasm" / "mlc_wasm_runtime.bc"
    bitcode.parent.mkdir(parents=True)
    env = {"PATH": "/nowhere", "MLC_LLM_SOURCE_DIR": str(tmp_path)}
    seen = set()
    for content in ("one", "two"):
        bitcode.write_text(content)
        seen.add(find(finder, env, preset="webgpu", suffix="wasm", kind="webgpu")["mlc_wasm_runtime.bc"])
    assert len(seen) == 2


def test_the_ndk_is_the_program_that_is_named(finder: ToolFinder, tmp_path: Path) -> None:
    ndk = program(tmp_path / "ndk", "clang++", "Android clang 18")
    found = find(finder, {"PATH": "/nowhere", "TVM_NDK_CC": str(ndk)}, preset="mali", kind="opencl")
    assert found["ndk"].startswith("Android clang 18")


@pytest.mark.parametrize("appears", [True, False])
def test_a_gpu_that_comes_or_goes_disproves_what_was_resolved_for_it(
    identifier: Identifier,
    ask: Callable[..., JitRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    appears: bool,
) -> None:
    sign = tmp_path / "nvidiactl"
    monkeypatch.setattr("mlc_jitd.identity.hardware.GPU_SIGNS", (str(sign),))
    if not appears:
        sign.touch()
    found, cpu, explicit = (identifier.identify(ask(device=d)) for d in ("auto", "cpu", '{"kind": "cuda"}'))
    assert identifier.recheck(found)
    if appears:
        sign.touch()
    else:
        sign.write_text("used")
        assert identifier.recheck(found)  # only its presence counts
        sign.unlink()
    assert not identifier.recheck(found)
    assert identifier.recheck(cpu)
    assert identifier.recheck(explicit)


def test_a_model_that_asks_for_the_local_gpu_rests_on_it_whatever_the_device() -> None:
    assert rests_on_gpus("cpu", gpu=True)
    assert rests_on_gpus("cuda:1", gpu=False)
    assert not rests_on_gpus("cpu", gpu=False)
