"""The control groups this process is in, and every limit along the way up.

Here: finding the folders (v1, v2, both at once, bind-mounted parts of a hierarchy) and reading quotas and memory limits
in them. Not here: what to make of the figures.

A quota holds for a group and everything below it, so the own group's file alone is not the truth: on a service inside
a slice with ``CPUQuota=50%`` it says ``max``. Limits above the mounted part of a hierarchy can't be seen from a
container; v1 tells the memory limit among them as ``hierarchical_memory_limit``.

Source: Linux, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Version = Literal[1, 2]

_OCTAL = re.compile(r"\\([0-7]{3})")
_MOUNTINFO_FIELDS = 6
_CPU_MAX_FIELDS = 2
_MOST_CPUS = 1 << 16


@dataclass(frozen=True, slots=True)
class Group:
    """One folder of one hierarchy, the own group or an ancestor of it."""

    version: Version
    folder: Path
    name: str


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What one group allows, in bytes.

    Attributes:
        limit: The lower of its hard limit and, on v2, the limit above which it is throttled.
        free: The limit less what is used; page cache that nobody touched lately counts as free.
    """

    limit: int
    free: int
    name: str


@dataclass(frozen=True, slots=True)
class _Mount:
    version: Version
    controllers: frozenset[str]
    root: PurePosixPath
    point: PurePosixPath


class Groups:
    """The groups of one process, by controller.

    Args:
        root: The file system to look in; ``/`` but for tests.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts = tuple(_mounts(_text(root / "proc/self/mountinfo") or ""))
        self._paths = dict(_paths(_text(root / "proc/self/cgroup") or ""))

    def of(self, controller: str) -> tuple[Group, ...]:
        """The own group and its ancestors under one controller, own first; of both versions where both are mounted."""
        found: list[Group] = []
        for key in (controller, ""):
            path = self._paths.get(key)
            if path is None:
                continue
            version: Version = 1 if key else 2
            mount = self._mount(version, key, path)
            if mount is not None:
                found.extend(self._chain(mount, path))
        return tuple(found)

    def _mount(self, version: Version, controller: str, path: PurePosixPath) -> _Mount | None:
        fitting = [m for m in self._mounts if m.version == version and (version == 2 or controller in m.controllers)]  # noqa: PLR2004
        if not fitting:
            return None
        # A hierarchy may be mounted more than once; the mount that shows the most of the way up to the root is best,
        # among those that show this process's own group at all.
        showing = [m for m in fitting if path.is_relative_to(m.root)]
        return min(showing, key=lambda m: len(m.root.parts)) if showing else fitting[0]

    def _chain(self, mount: _Mount, path: PurePosixPath) -> Iterator[Group]:
        below = path.relative_to(mount.root) if path.is_relative_to(mount.root) else PurePosixPath()
        if ".." in below.parts:  # the process stands outside its cgroup namespace's root: only the root can be seen
            below = PurePosixPath()
        top = self._root / mount.point.relative_to("/")
        for part in (below, *below.parents):
            folder = top / part
            if folder.is_dir():
                yield Group(mount.version, folder, str(PurePosixPath("/") / part))
            if part == PurePosixPath():
                return


def cpu_quota(group: Group) -> float | None:
    """Cores that the group may use on average, or ``None`` without a quota."""
    if group.version == 1:
        quota, period = _number(group.folder / "cpu.cfs_quota_us"), _number(group.folder / "cpu.cfs_period_us")
    else:
        fields = (_text(group.folder / "cpu.max") or "").split()
        if len(fields) != _CPU_MAX_FIELDS:
            return None
        quota, period = (_integer(each) for each in fields)
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return quota / period


def cpu_set(group: Group) -> frozenset[int] | None:
    """The CPUs that the group may run on, or ``None`` where it says nothing."""
    names = ("cpuset.effective_cpus", "cpuset.cpus") if group.version == 1 else ("cpuset.cpus.effective",)
    for name in names:
        cpus = cpu_list(_text(group.folder / name) or "")
        if cpus:
            return cpus
    return None


def memory_limit(group: Group) -> MemoryLimit | None:
    """What the group allows, or ``None`` without a limit."""
    folder = group.folder
    stat = dict(_stat(_text(folder / "memory.stat") or ""))
    if group.version == 1:
        limits = (_number(folder / "memory.limit_in_bytes"), stat.get("hierarchical_memory_limit"))
        usage, idle = _number(folder / "memory.usage_in_bytes"), stat.get("total_inactive_file", 0)
    else:
        limits = (_number(folder / "memory.max"), _number(folder / "memory.high"))
        usage, idle = _number(folder / "memory.current"), stat.get("inactive_file", 0)
    given = [limit for limit in limits if limit is not None]
    if not given:
        return None
    limit = min(given)
    used = max(0, (usage or 0) - idle)
    return MemoryLimit(limit, max(0, limit - used), group.name)


def cpu_list(text: str) -> frozenset[int]:
    """The numbers of a list such as ``0-3,8,10-11``; empty for anything else."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        low, high = _integer(first), _integer(last or first)
        if low is None or high is None or not 0 <= low <= high < _MOST_CPUS:
            return frozenset()
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < _MOUNTINFO_FIELDS or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        root, point = (PurePosixPath(_OCTAL.sub(lambda m: chr(int(m[1], 8)), each)) for each in fields[3:5])
        if point.is_absolute():
            options = frozenset(kind[-1].split(","))
            yield _Mount(2 if kind[0] == "cgroup2" else 1, options, root, point)


def _paths(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Controller to path; the v2 hierarchy's controller is the empty text."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator:
            continue
        if number == "0":
            yield "", PurePosixPath(path)
        for controller in controllers.split(","):
            if controller:
                yield controller, PurePosixPath(path)


def _stat(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        number = _integer(value)
        if number is not None:
            yield name, number


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return None if text is None else _integer(text)


def _integer(text: str) -> int | None:
    """The number, or ``None`` for ``max`` and anything else that is none."""
    try:
        return int(text.strip())
    except ValueError:
        return None
