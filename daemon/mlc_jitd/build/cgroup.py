"""Control groups for jobs: a child group with a low weight for each, where a group is delegated to this process.

Here: whether a group may be divided, and making, filling in and removing children of it. The job's own process enters
its group (`supervisor.child`). Not here: where this process's own groups are mounted, and how much a job may hold.

All of it is best effort: a host that delegates nothing, or takes it back, costs a job its weight and nothing else.

Version 2 forbids processes in a group whose children have controllers, so the daemon moves into a leaf first; it does
so only in a group that it has for itself. Version 1 knows no such rule, and no delegation but the right to write.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1; systemd, docs/CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from .supervisor import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Group", "GroupLike", "JobGroups", "Place", "survey", "weight_of"]

logger = logging.getLogger(__name__)

Version = Literal[1, 2]

CORE_WEIGHT = 10
"""For each core of a job; every other group has 100. The kernel divides a group's weight among the cores that the group
is busy on: a job that uses all of its cores leaves ten elevenths of each, and one that is in a step for one core alone,
as most of a compile is, still gets on there."""

MOST_WEIGHT = 40
"""However many cores a job has: on one core alone it never comes near to what a serving process gets."""

NORMAL_SHARES = 1024
"""What a process on its own counts on version 1, where weights are called shares."""

LEAST_SHARES = 2
LEAF = "mlc-jitd.daemon"
_PREFIX = "mlc-jitd.job"
_REMOVE_SECONDS = 2.0
_DELEGATE_MARKS = ("user.delegate", "trusted.delegate")


class GroupLike(Protocol):
    """One of this process's own groups."""

    @property
    def version(self) -> Version:
        """Of the hierarchy."""

    @property
    def folder(self) -> Path:
        """Where it is mounted."""


@dataclass(frozen=True, slots=True)
class Place:
    """A group whose children may be made, and what can be set in them: ``cpu``, ``memory``, or both."""

    folder: Path
    version: Version
    controllers: frozenset[str]


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A group can't be divided; the text says why."""


class JobGroups:
    """Makes one group per job. From any thread.

    Args:
        places: Where; none means that every job goes without.
        why: Why there are none, for people.
    """

    def __init__(self, places: tuple[Place, ...] = (), why: str = "") -> None:
        self.places = places
        self.why = why
        self._owner = _name_of(os.getpid())
        self._numbers = itertools.count(1)

    @classmethod
    def open(cls, setting: str, own: Iterable[GroupLike]) -> JobGroups:
        """Find what is delegated, prove it, and sweep what a daemon that died left there. Never raises.

        Args:
            setting: ``auto``, ``own`` (who started this process delegated its own group), ``off``, or folders that are
                delegated, with ``:`` between them.
            own: This process's own groups for CPU time; looked at for ``auto`` and ``own``.
        """
        return cls(*_search(setting, own, _taken))

    def make(self, *, cores: int, background: bool, memory: int | None) -> Group | None:
        """A group for a job that is about to start; None where it can't be had.

        Args:
            cores: What it was admitted with; its weight follows.
            background: Only what nobody else wants, where the kernel knows that (``cpu.idle``).
            memory: Bytes that it may hold, None for no limit.
        """
        if not self.places:
            return None
        name = f"{_PREFIX}.{self._owner}.{next(self._numbers)}"
        weight = None if background else weight_of(cores)
        made = []
        for place in self.places:
            try:
                made.append(_make(place, name, weight=weight, memory=memory))
            except OSError as error:
                logger.warning("a compile goes without a control group of its own: %s", error)
        return Group(tuple(made)) if made else None


def survey(setting: str, own: Iterable[GroupLike]) -> tuple[tuple[Place, ...], str]:
    """What `JobGroups.open` would find, and why it would not find more; nothing is changed, so nothing is proved."""
    return _search(setting, own, lambda place: place)


def _search(setting: str, own: Iterable[GroupLike], take: Callable[[Place], Place]) -> tuple[tuple[Place, ...], str]:
    if setting == "off":
        return (), "switched off"
    named = [] if setting in {"auto", "own"} else [Path(each) for each in setting.split(":")]
    finders: list[Callable[[], Place]] = [partial(_named, folder) for folder in named]
    if not named:
        finders = [partial(_own, group, told=setting == "own") for group in own]
    places, reasons = [], []
    for find in finders:
        try:
            places.append(take(find()))
        except Refusal as refusal:
            reasons.append(str(refusal))
        except OSError as error:
            reasons.append(f"{error.filename}: {error.strerror}")
        else:
            if not named:
                break
    if not any("cpu" in place.controllers for place in places) and not reasons:
        reasons.append("no control group for CPU time was found")
    return tuple(places), "; ".join(reasons)


def _taken(place: Place) -> Place:
    """A place, made ready and proved."""
    if place.version == 2:  # noqa: PLR2004 - a version
        place = _divide(place.folder)
    sweep(place.folder)
    _prove(place)
    return place


class Group:
    """The folders of one job.

    Args:
        entries: Each folder, and what holds once the job is in it.
    """

    def __init__(self, entries: tuple[tuple[Path, tuple[str, ...]], ...]) -> None:
        self.entries = entries

    def promote(self, cores: int) -> None:
        """Give a job of the background the weight of one with so many cores that somebody waits for."""
        for folder, holds in self.entries:
            if "cgroup" in holds:
                version: Version = 1 if (folder / "cpu.shares").exists() else 2
                try:
                    if (folder / "cpu.idle").exists():  # not before Linux 5.15
                        _write(folder / "cpu.idle", 0)
                    _weigh(folder, version, weight_of(cores))
                except OSError as error:
                    logger.warning("a compile that somebody waits for stays in the background: %s", error)

    def remove(self) -> None:
        """Remove it, behind the job's end. What is in it nevertheless came from the job, and is killed."""
        for folder, _ in self.entries:
            if not _remove(folder):
                logger.warning("%s could not be removed: it is not empty", folder)


def weight_of(cores: int) -> int:
    """What a job with so many cores weighs, of 100."""
    return min(MOST_WEIGHT, CORE_WEIGHT * max(1, cores))


def sweep(folder: Path) -> None:
    """Remove the groups of daemons that are no more. One with processes in it stays: the kernel refuses."""
    for child in folder.glob(f"{_PREFIX}.*"):
        owner = child.name.removeprefix(_PREFIX + ".").rpartition(".")[0]
        pid = owner.partition("-")[0]
        if pid.isdigit() and owner != _name_of(int(pid)):
            with suppress(OSError):
                child.rmdir()


def _own(group: GroupLike, *, told: bool) -> Place:
    """The own group, if it may be divided without asking anybody."""
    folder = group.folder
    if not os.access(folder, os.W_OK):
        raise Refusal(f"{folder} can't be written")
    inside = _processes(folder)
    if os.getpid() not in inside:
        raise Refusal(f"{folder} is not this process's own group")
    if group.version == 1:
        return Place(folder, 1, frozenset({"cpu"}))
    if folder.name.endswith((".service", ".scope", ".slice")) and not told and not _marked(folder):
        raise Refusal(f"nothing says that systemd delegates {folder} (Delegate=yes, MLC_JITD_CGROUP=own)")
    if inside != {os.getpid()}:
        raise Refusal(f"{folder} has other processes in it")
    return Place(folder, 2, _offered(folder))


def _named(folder: Path) -> Place:
    """A folder that somebody prepared."""
    if not folder.is_dir():
        raise Refusal(f"{folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise Refusal(f"{folder} can't be written")
    if (folder / "cgroup.controllers").exists():
        return Place(folder, 2, _offered(folder))
    files = {"cpu": "cpu.shares", "memory": "memory.limit_in_bytes"}
    controllers = frozenset(name for name, file in files.items() if (folder / file).exists())
    if not controllers:
        raise Refusal(f"{folder} is no control group for CPU time or memory")
    return Place(folder, 1, controllers)


def _divide(folder: Path) -> Place:
    """Hand the controllers of a version 2 group on to its children; this process moves into a leaf, if need be."""
    offered = _offered(folder)
    leaf = folder / LEAF
    moved = os.getpid() in _processes(folder)
    if moved:
        leaf.mkdir(exist_ok=True)
        _write(leaf / "cgroup.procs", os.getpid())
    try:
        _write(folder / "cgroup.subtree_control", "+cpu")
    except OSError:
        if moved:
            _write(folder / "cgroup.procs", os.getpid())
            _remove(leaf)
        raise
    controllers = {"cpu"}
    if "memory" in offered:
        with suppress(OSError):
            _write(folder / "cgroup.subtree_control", "+memory")
            controllers.add("memory")
    return Place(folder, 2, frozenset(controllers))


def _offered(folder: Path) -> frozenset[str]:
    """What a version 2 group could hand on.

    Raises:
        Refusal: Not CPU time.
    """
    offered = frozenset((folder / "cgroup.controllers").read_text(encoding="ascii").split())
    if "cpu" not in offered:
        raise Refusal(f"{folder} has no cpu controller")
    return offered & {"cpu", "memory"}


def _prove(place: Place) -> None:
    """Make a group and remove it.

    Raises:
        OSError: It is not delegated after all.
    """
    folder, _ = _make(place, f"{_PREFIX}.{_name_of(os.getpid())}.0", weight=CORE_WEIGHT, memory=None)
    _remove(folder)


def _make(place: Place, name: str, *, weight: int | None, memory: int | None) -> tuple[Path, tuple[str, ...]]:
    """A child group, and the words for what will hold in it. No weight: only what nobody else wants."""
    folder = place.folder / name
    folder.mkdir()
    holds = []
    try:
        if "cpu" in place.controllers:
            _weigh(folder, place.version, weight)
            holds.append("cgroup")
        if "memory" in place.controllers and memory is not None:
            if place.version == 1:
                _write(folder / "memory.limit_in_bytes", memory)
            else:
                _write(folder / "memory.max", memory)
                _write(folder / "memory.oom.group", 1)
            holds.append("memory-limit")
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise
    return folder, tuple(holds)


def _weigh(folder: Path, version: Version, weight: int | None) -> None:
    if weight is None:
        try:
            _write(folder / "cpu.idle", 1)
        except OSError:  # a kernel before 5.15
            _write(folder / ("cpu.shares" if version == 1 else "cpu.weight"), LEAST_SHARES if version == 1 else 1)
    elif version == 1:
        _write(folder / "cpu.shares", NORMAL_SHARES * weight // 100)
    else:
        _write(folder / "cpu.weight", weight)


def _remove(folder: Path) -> bool:
    """Remove a group of ours; what is still in it is killed. Whether it is gone."""
    give_up_at = time.monotonic() + _REMOVE_SECONDS
    pause = 0.001
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > give_up_at:
                return False
        else:
            return True
        with suppress(OSError):
            for pid in _processes(folder) - {0, os.getpid()}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _processes(folder: Path) -> set[int]:
    """Who is in a group; 0 stands for those whom this pid namespace does not show."""
    return {int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split()}


def _marked(folder: Path) -> bool:
    for name in _DELEGATE_MARKS:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _name_of(pid: int) -> str:
    """A process for good: its pid and start time; another text, or none, when it is gone."""
    process = tree.read(pid)
    return f"{pid}-{process.start}" if process is not None else ""


def _write(file: Path, value: object) -> None:
    file.write_text(str(value), encoding="ascii")
