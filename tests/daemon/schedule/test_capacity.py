"""What is read from built trees: quotas and limits at every height, both cgroup versions, and what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jitd.schedule.capacity import read
from mlc_jitd.schedule.capacity.cgroups import cpu_list
from mlc_jitd.schedule.capacity.reader import reserve
from mlc_jitd.schedule.host import GIB, MIB, Gpu

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED_V1 = 9223372036854771712


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def whole(tree: Any) -> tuple[float, float, float]:
    """Cores, and GiB of total and free memory before the reserve is taken."""
    capacity = read(tree.root)
    assert capacity.notes
    return (
        capacity.cores,
        (capacity.memory_total + capacity.memory_reserve) / GIB,
        (capacity.memory_available + capacity.memory_reserve) / GIB,
    )


def test_no_groups_at_all(tree: Any) -> None:
    tree.host(cpus="0-7", total=32, free=28)
    assert whole(tree) == (8, 32, 28)


@pytest.mark.parametrize(("cpus", "cores"), [("0", 1), ("0-3", 4), ("0-1,8,10-11", 5), ("64-127", 64)])
def test_affinity(tree: Any, cpus: str, cores: int) -> None:
    tree.host(cpus=cpus)
    assert read(tree.root).cores == cores


def test_half_a_core(tree: Any) -> None:
    tree.host(cpus="0")
    tree.v2("/a.service", {"a.service": {"cpu.max": "50000 100000"}})
    assert read(tree.root).cores == 0.5


@pytest.mark.parametrize("holder", ["user.slice", "user.slice/u.slice", "user.slice/u.slice/a.service"])
def test_a_v2_quota_holds_at_every_height(tree: Any, holder: str) -> None:
    path = "/user.slice/u.slice/a.service"
    groups = {"/".join(path.strip("/").split("/")[:n]): {"cpu.max": "max 100000"} for n in (1, 2, 3)}
    groups[holder] = {"cpu.max": "150000 100000"}
    tree.host(cpus="0-7")
    tree.v2(path, groups)
    capacity = read(tree.root)
    assert capacity.cores == 1.5
    assert any(f"the CPU quota of group /{holder}" in note for note in capacity.notes)


def test_the_lowest_of_nested_quotas_holds(tree: Any) -> None:
    tree.host(cpus="0-7")
    tree.v2("/a/b", {"a": {"cpu.max": "200000 100000"}, "a/b": {"cpu.max": "300000 100000"}})
    assert read(tree.root).cores == 2


def test_a_quota_above_the_affinity_changes_nothing(tree: Any) -> None:
    tree.host(cpus="0-1")
    tree.v2("/a", {"a": {"cpu.max": "800000 100000"}})
    assert read(tree.root).cores == 2


def test_cpuset_cuts_the_affinity(tree: Any) -> None:
    tree.host(cpus="0-7")
    tree.v2("/a/b", {"a": {"cpuset.cpus.effective": "0-3"}, "a/b": {"cpuset.cpus.effective": "2-3"}})
    assert read(tree.root).cores == 2


def test_a_cpuset_of_other_cpus_is_not_believed(tree: Any) -> None:
    tree.host(cpus="0-3")
    tree.v2("/a", {"a": {"cpuset.cpus.effective": "8-9"}})
    assert read(tree.root).cores == 4


def test_memory_max_of_max_is_no_limit(tree: Any) -> None:
    tree.host(total=32, free=28)
    tree.v2("/a", {"a": {"memory.max": "max", "memory.high": "max", "memory.current": 5 * GIB}})
    assert whole(tree) == (8, 32, 28)


def test_nested_memory_limits_less_what_each_group_uses(tree: Any) -> None:
    tree.host(total=32, free=28)
    tree.v2(
        "/pod/own",
        {
            # The pod's other containers use most of it: the own group's limit is not what is free.
            "pod": {"memory.max": 16 * GIB, "memory.current": 13 * GIB},
            "pod/own": {"memory.max": 8 * GIB, "memory.current": 1 * GIB},
        },
    )
    assert whole(tree) == (8, 8, 3)


def test_idle_page_cache_counts_as_free(tree: Any) -> None:
    tree.host(total=32, free=28)
    stat = f"anon 1\nfile 5\ninactive_file {2 * GIB}\nactive_file 7"
    tree.v2("/a", {"a": {"memory.max": 8 * GIB, "memory.current": 5 * GIB, "memory.stat": stat}})
    assert whole(tree) == (8, 8, 5)


def test_a_throttling_limit_is_a_limit(tree: Any) -> None:
    tree.host(total=32, free=28)
    tree.v2("/a", {"a": {"memory.max": 8 * GIB, "memory.high": 6 * GIB, "memory.current": 0}})
    assert whole(tree) == (8, 6, 6)


def test_a_limit_above_the_host_and_a_full_group(tree: Any) -> None:
    tree.host(total=8, free=6)
    tree.v2("/a", {"a": {"memory.max": 64 * GIB, "memory.current": 65 * GIB}})
    capacity = read(tree.root)
    assert capacity.memory_available == 0
    assert capacity.memory_total + capacity.memory_reserve == 8 * GIB


def test_v1_in_separate_and_joined_hierarchies(tree: Any) -> None:
    tree.host(cpus="0-7", total=32, free=28)
    tree.v1(
        {"cpu,cpuacct": "/a/b", "memory": "/m/n", "cpuset": "/s", "name=systemd": "/"},
        {
            "cpu,cpuacct/a/cpu.cfs_quota_us": 250000,
            "cpu,cpuacct/a/cpu.cfs_period_us": 100000,
            "cpu,cpuacct/a/b/cpu.cfs_quota_us": -1,
            "cpu,cpuacct/a/b/cpu.cfs_period_us": 100000,
            "memory/memory.limit_in_bytes": UNLIMITED_V1,
            "memory/m/memory.limit_in_bytes": 4 * GIB,
            "memory/m/memory.usage_in_bytes": 2 * GIB,
            "memory/m/memory.stat": f"total_inactive_file {GIB}\ninactive_file 5",
            "memory/m/n/memory.limit_in_bytes": UNLIMITED_V1,
            "memory/m/n/memory.usage_in_bytes": GIB,
            "cpuset/s/cpuset.effective_cpus": "0-5",
        },
    )
    assert whole(tree) == (2.5, 4, 3)


def test_v1_tells_a_limit_above_what_is_mounted(tree: Any) -> None:
    tree.host(total=32, free=28)
    tree.v1(
        {"memory": "/docker/abc"},
        {
            "memory/memory.limit_in_bytes": UNLIMITED_V1,
            "memory/memory.usage_in_bytes": GIB,
            "memory/memory.stat": f"hierarchical_memory_limit {6 * GIB}",
        },
        mounts={"memory": "/docker/abc"},
    )
    assert whole(tree) == (8, 6, 5)


def test_a_container_that_sees_only_its_own_part(tree: Any) -> None:
    tree.host(cpus="0-7")
    tree.v1(
        {"cpu": "/docker/abc/inner"},
        {
            "cpu/cpu.cfs_quota_us": 300000,
            "cpu/cpu.cfs_period_us": 100000,
            "cpu/inner/cpu.cfs_quota_us": 400000,
            "cpu/inner/cpu.cfs_period_us": 100000,
        },
        mounts={"cpu": "/docker/abc"},
    )
    assert read(tree.root).cores == 3


def test_hybrid_v1_cpu_and_v2_memory(tree: Any) -> None:
    tree.host(cpus="0-7", total=32, free=28)
    tree.v1({"cpu": "/x"}, {"cpu/x/cpu.cfs_quota_us": 100000, "cpu/x/cpu.cfs_period_us": 100000})
    for name, line in (
        ("proc/self/cgroup", "0::/y"),
        ("proc/self/mountinfo", "40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"),
    ):
        file = tree.root / name
        tree.file(name, file.read_text() + line)
    tree.file("sys/fs/cgroup/unified/y/memory.max", 5 * GIB)
    tree.file("sys/fs/cgroup/unified/y/memory.current", GIB)
    assert whole(tree) == (1, 5, 4)


def test_a_mount_point_with_a_blank(tree: Any) -> None:
    tree.host(cpus="0-7")
    tree.v2("/a", {}, mountinfo="30 23 0:26 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n")
    tree.file("sys/fs/c group/a/cpu.max", "100000 100000")
    assert read(tree.root).cores == 1


def test_outside_the_namespace_only_its_root_is_read(tree: Any) -> None:
    tree.host(cpus="0-7")
    tree.v2("/", {"": {"cpu.max": "200000 100000"}})
    tree.file("proc/self/cgroup", "0::/../elsewhere")
    tree.file("sys/fs/elsewhere/cpu.max", "100000 100000")
    assert read(tree.root).cores == 2


def test_an_old_kernel_without_memavailable(tree: Any) -> None:
    tree.host()
    tree.file("proc/meminfo", f"MemTotal: {8 << 20} kB\nMemFree: {1 << 20} kB\nBuffers: 0 kB\nCached: {2 << 20} kB")
    assert whole(tree)[1:] == (8, 3)


@pytest.mark.parametrize(
    "garbage", ["", "\n\n", "max", "-1 0", "100000", "1 2 3", "x y", "\x00\xff", "0::", "a:b:c", "- - -"]
)
def test_garbage_anywhere_is_never_an_error(tree: Any, garbage: str) -> None:
    tree.host()
    tree.v2("/a", {"a": dict.fromkeys(("cpu.max", "memory.max", "memory.current", "memory.stat"), garbage)})
    assert read(tree.root).cores == 8
    for name in ("status", "cgroup", "mountinfo"):
        tree.file(f"proc/self/{name}", garbage)
    tree.file("proc/meminfo", garbage)
    capacity = read(tree.root)
    assert capacity.cores == 1
    assert capacity.memory_total > GIB


def test_an_empty_root(tmp_path: Path) -> None:
    capacity = read(tmp_path)
    assert (capacity.cores, capacity.gpus) == (1, ())
    assert any("assumption" in note for note in capacity.notes)


@pytest.mark.parametrize(
    ("total", "kept"),
    [(1 * GIB, 256 * MIB), (4 * GIB, 512 * MIB), (40 * GIB, 2 * GIB), (512 * GIB, 4 * GIB), (0, 0)],
)
def test_the_reserve(total: int, kept: int) -> None:
    assert reserve(total) == kept


@pytest.mark.parametrize("text", ["", "a-b", "3-1", "-2", "0-999999999999", "1,,2"])
def test_what_is_no_cpu_list(text: str) -> None:
    assert cpu_list(text) == frozenset()


def test_an_apple_machine_has_one_integrated_gpu(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.host(total=32, free=20)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    (gpu,) = read(tree.root).gpus
    assert gpu == Gpu(
        index=0,
        uuid="apple-integrated",
        model="Apple integrated GPU",
        memory_total=32 * GIB,
        memory_free=20 * GIB,
        integrated=True,
    )
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert read(tree.root).gpus == ()


def test_without_the_extra_the_note_says_what_to_install(tree: Any) -> None:
    tree.host()
    assert any("pip install nvidia-ml-py" in note for note in read(tree.root).notes)


def test_the_real_machine() -> None:
    capacity = read()
    assert capacity.cores > 0
    assert 0 <= capacity.memory_available <= capacity.memory_total
