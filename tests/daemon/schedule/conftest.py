"""A host's /proc and /sys/fs/cgroup, built from a description."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GIB = 1 << 30

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


class Tree:
    """A file tree to give to `read(root)`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, path: str, text: str | int) -> None:
        where = self.root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(f"{text}\n")

    def host(self, cpus: str = "0-7", total: float = 32, free: float = 28) -> None:
        self.file("proc/self/status", f"Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\n")
        figures = {"MemTotal": total, "MemFree": free / 2, "MemAvailable": free}
        lines = (f"{name}: {int(size * GIB) // 1024:12d} kB" for name, size in figures.items())
        self.file("proc/meminfo", "\n".join(lines))

    def v2(self, path: str, groups: Mapping[str, Mapping[str, str | int]], mountinfo: str = V2) -> None:
        """A process in v2 group `path`; `groups` maps a group's path to its files."""
        self.file("proc/self/cgroup", f"0::{path}")
        self.file("proc/self/mountinfo", mountinfo)
        (self.root / "sys/fs/cgroup" / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self.file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory")
        for group, files in groups.items():
            for name, text in files.items():
                self.file(f"sys/fs/cgroup/{group.lstrip('/')}/{name}", text)

    def v1(
        self, paths: Mapping[str, str], files: Mapping[str, str | int], mounts: Mapping[str, str] | None = None
    ) -> None:
        """`paths`: controllers to own group; `files`: below /sys/fs/cgroup; `mounts`: controllers to mount root."""
        self.file("proc/self/cgroup", "\n".join(f"{n}:{c}:{p}" for n, (c, p) in enumerate(paths.items(), 2)))
        roots = dict.fromkeys(paths, "/") | dict(mounts or {})
        self.file(
            "proc/self/mountinfo",
            "25 1 0:22 / / rw - ext4 /dev/sda rw\n"
            + "\n".join(
                f"3{n} 31 0:2{n} {r} /sys/fs/cgroup/{c} rw - cgroup cgroup rw,{c}"
                for n, (c, r) in enumerate(roots.items())
            ),
        )
        for controllers, path in paths.items():
            below = path.removeprefix(roots[controllers]) if roots[controllers] != "/" else path
            (self.root / "sys/fs/cgroup" / controllers / below.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            self.file(f"sys/fs/cgroup/{name}", text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)
