"""Evidence: files whose stat proves that what was once read from them still holds.

A stamp is taken before the file is read. Of a folder only certain names matter, so that a log or a bytecode cache
written into it disproves nothing. Not guaranteed: a file of an *installed* package rewritten in place is noticed after
up to ``SOMETIMES_SECONDS``; everything else, and every source of a checkout, at once.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jitd.toolchains.inside import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOMETIMES_SECONDS = 2.0
"""How often the files of installed packages are looked at: some 1,000 of them, against some 50 otherwise."""

MAX_LINKS = 40
"""As many as Linux follows."""

Stat = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Stamp:
    """One path as it was.

    Attributes:
        path: Absolute.
        rule: ``file``; ``link`` for a symbolic link itself, not what it leads to; ``presence`` where only that counts,
            and ``stat`` is not compared; or which names of a folder matter: ``path`` or ``package`` (see the probe).
        stat: Device, inode, size, time of modification and of change; ``None`` for a path that was not there.
        names: Those of the folder that matter.
    """

    path: str
    rule: str
    stat: Stat | None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Stamps to compare: on each look, and on one look every few seconds."""

    always: tuple[Stamp, ...] = ()
    sometimes: tuple[Stamp, ...] = ()


def stamp(path: str) -> Stamp:
    """A file, or the absence of one, as it is now."""
    found = probe.stat_of(path)
    return Stamp(path, "file", None if found is None else _stat(found))


def presence(path: str) -> Stamp:
    """Whether something is there, whatever becomes of it: a device's times change as it is used."""
    found = probe.stat_of(path)
    return Stamp(path, "presence", None if found is None else _stat(found))


def stamps_on_the_way(path: str) -> tuple[Stamp, ...]:
    """What a path leads to, and every symbolic link that is followed on the way there."""
    links: dict[str, Stamp] = {}
    left = list(reversed(path.split(os.sep)))  # noqa: PTH206
    at, followed = os.sep, 0
    while left and followed < MAX_LINKS:
        name = left.pop()
        if name in {"", os.curdir}:
            continue
        if name == os.pardir:
            at = os.path.dirname(at)  # noqa: PTH120 - texts all the way; no link is left in it
            continue
        here = os.path.join(at, name)  # noqa: PTH118
        try:
            s = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(s.st_mode) else None  # noqa: PTH115
        except (OSError, ValueError):
            break
        if target is None:
            at = here
            continue
        links[here] = Stamp(here, "link", _stat_of(s))
        followed += 1
        left += reversed(target.split(os.sep))  # noqa: PTH206
        at = os.sep if os.path.isabs(target) else at  # noqa: PTH117
    return (stamp(path), *links.values())


def changed_files(before: Evidence, now: Evidence) -> tuple[str, ...]:
    """The files that are new, gone, or no longer what they were; sorted. What was only touched is among them."""
    old, new = (_files(evidence) for evidence in (before, now))
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def _files(evidence: Evidence) -> dict[str, Stat | None]:
    stamps = (*evidence.always, *evidence.sometimes)
    return {each.path: each.stat for each in stamps if each.rule == "file"}


def rows(stamps: Iterable[Stamp]) -> list[list[Any]]:
    """Stamps as the probe prints them."""
    return [[each.path, each.rule, each.stat and list(each.stat), each.names] for each in stamps]


def evidence_from(plain: dict[str, list[list[Any]]]) -> Evidence:
    """Evidence as the probe prints it. Raises KeyError, TypeError or ValueError for anything else."""
    return Evidence(_stamps(plain["always"]), _stamps(plain["sometimes"]))


def _stamps(rows: Iterable[list[Any]]) -> tuple[Stamp, ...]:
    return tuple(
        Stamp(
            str(path),
            str(rule),
            None if stat is None else _stat(stat),
            None if names is None else tuple(str(name) for name in names),
        )
        for path, rule, stat, names in rows
    )


def _stat(values: list[int]) -> Stat:
    device, inode, size, modified, changed = (int(value) for value in values)
    return device, inode, size, modified, changed


def _stat_of(s: os.stat_result) -> Stat:
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


class Checker:
    """Compares evidence with the file system; safe for several threads.

    Args:
        clock: Seconds that only grow; a test's own where needed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._excused: dict[tuple[str, str], tuple[Stat, tuple[str, ...] | None]] = {}
        self._looked: dict[int, tuple[Evidence, float]] = {}

    def holds(self, *evidence: Evidence, thoroughly: bool = False) -> bool:
        """Whether nothing has changed, by stat alone.

        Args:
            evidence: What to compare. One object is looked at thoroughly once every ``SOMETIMES_SECONDS``, however many
                answers rest on it.
            thoroughly: Compare every stamp, whenever the last look was.
        """
        return all(self._holds(each, thoroughly) for each in evidence)

    def _holds(self, evidence: Evidence, thoroughly: bool) -> bool:
        if not self._same(evidence.always):
            return False
        if not evidence.sometimes:
            return True
        now = self._clock()
        held = self._looked.get(id(evidence))
        if not thoroughly and held is not None and held[0] is evidence and now - held[1] < SOMETIMES_SECONDS:
            return True
        if not self._same(evidence.sometimes):
            return False
        if len(self._looked) > 256:  # noqa: PLR2004 - a bound, far above the number of toolchains of a host
            self._looked.clear()
        self._looked[id(evidence)] = (evidence, now)
        return True

    def _same(self, stamps: tuple[Stamp, ...]) -> bool:
        follow, itself = os.stat, os.lstat
        for known in stamps:
            try:
                s = itself(known.path) if known.rule == "link" else follow(known.path)
            except (OSError, ValueError):
                if known.stat is None:
                    continue
                return False
            now = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            if now != known.stat and not self._is_excused(known, now):
                return False
        return True

    def _is_excused(self, known: Stamp, now: Stat) -> bool:
        if known.rule == "presence":
            return known.stat is not None
        if known.names is None:
            return False
        place = (known.path, known.rule)
        excuse = self._excused.get(place)
        if excuse == (now, known.names):
            return True
        names = probe.listing(known.path, known.rule)
        if names is None or tuple(names) != known.names:
            return False
        self._excused[place] = (now, known.names)
        return True
