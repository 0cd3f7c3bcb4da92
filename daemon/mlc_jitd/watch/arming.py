"""Which folders are watched how: by events where the kernel tells of every change, else by comparing marks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jitd.asks import GONE, UNSEEN
from mlc_jitd.watch.look import UNREADABLE
from mlc_jitd.watch.mounts import Mounts

if TYPE_CHECKING:
    from mlc_jitd.watch import judge
    from mlc_jitd.watch.look import Look
    from mlc_jitd.watch.observer import Events

CHECK_SECONDS = 2.0
"""How often the mark of a folder that is polled is compared: two calls of stat. Those that are watched by events are
glanced at in the daemon's rounds."""
FAR_SECONDS = 10.0
"""The same, on a network's file systems."""
SCAN_SECONDS = 60.0
"""How often its config is read, whatever events and marks say."""
MOST_CHECKED = 256
"""Folders beyond that, those that were asked for longest ago, are only scanned."""


@dataclass(slots=True)
class Watched:
    """A folder as the watcher holds it.

    Attributes:
        path: As clients named it.
        state: What is known of it.
        known: The configs that clients asked with.
        last: The last look.
        looking: Whether one is being taken; ``again``: something happened since it was begun.
        scan_due: When its config is read next, whatever its mark says.
        manner: How it is watched: ``events``, ``polling``, ``scan``, ``gone``, ``unseen``, ``unreachable``.
        why: Why it is not watched by events.
        wanted: The config for which its kept questions were asked.
    """

    path: str
    state: judge.State
    known: frozenset[str] = field(default_factory=frozenset)
    last: Look | None = None
    looking: bool = False
    again: bool = False
    scan_due: float = 0.0
    manner: str = "scan"
    why: str = ""
    wanted: str = ""

    def due(self, *, thoroughly: bool = False) -> None:
        """Look at it as soon as possible."""
        self.state = dataclasses.replace(self.state, due=0.0)
        self.again = self.looking
        if thoroughly:
            self.scan_due = 0.0


class Arming:
    """Decides, and has ``Events`` watch.

    Args:
        events: The kernel's.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._mounts = Mounts()
        self._paths: dict[str, set[str]] = {}

    def paths(self, folder: str) -> set[str]:
        """The model folders whose way leads through a watched folder."""
        return self._paths.get(folder, set())

    def pace(self, held: Watched) -> float:
        """Seconds between two looks that nothing asked for."""
        if held.manner in ("scan", "unseen", "unreachable") and held.last is not None:
            return SCAN_SECONDS
        kind = self._mounts.silent(held.path)
        if kind and kind != "overlay":
            return FAR_SECONDS
        return SCAN_SECONDS if self.glanced(held) else CHECK_SECONDS

    def glanced(self, held: Watched) -> bool:
        """Whether the daemon's rounds compare its mark: it is at rest, on file systems that answer."""
        if held.last is None or held.manner not in ("events", "gone"):
            return False
        return not self._silent(held, held.last)

    def arm(self, order: list[Watched]) -> None:
        """Watch what should be watched, and nothing else; the first of ``order`` come first."""
        self._mounts = Mounts()
        wanted: dict[str, set[str]] = {}
        places: dict[str, tuple[int, int]] = {}
        names: dict[str, set[str]] = {}
        held_by_path = {held.path: held for held in order}
        for number, held in enumerate(order):
            held.manner, held.why = self._manner(held, number)
            if held.manner == "events" and held.last is not None:
                for hop in held.last.hops:
                    wanted.setdefault(hop.folder, set()).add(held.path)
                    names.setdefault(hop.folder, set()).add(hop.name)
                    places[hop.folder] = hop.place
        self._events.keep_only(set(wanted))
        for folder, paths in wanted.items():
            refusal = self._events.watch(folder, places[folder], frozenset(names[folder]))
            if refusal:
                for path in paths:
                    held_by_path[path].manner, held_by_path[path].why = "polling", refusal
        self._paths = wanted

    def _manner(self, held: Watched, number: int) -> tuple[str, str]:
        if held.manner == "unreachable":  # until a look at it comes back
            return held.manner, held.why
        if held.state.config == GONE:
            return "gone", ""
        if held.last is None:
            return "scan", "it was not looked at yet"
        if held.state.config == UNSEEN:
            return "unseen", "the daemon does not see there what was asked with"
        if number >= MOST_CHECKED:
            return "scan", f"{MOST_CHECKED} folders were asked for after it"
        kinds = self._silent(held, held.last)
        if kinds:
            return "polling", f"{', '.join(sorted(kinds))} does not tell of every change"
        if held.last.config == UNREADABLE:
            return "polling", f"its config can't be read: {held.last.trouble}"
        return "events", ""

    def _silent(self, held: Watched, last: Look) -> set[str]:
        """The file systems on its way that don't tell of every change."""
        return {self._mounts.silent(each) for each in [held.path, *(hop.folder for hop in last.hops)]} - {""}
