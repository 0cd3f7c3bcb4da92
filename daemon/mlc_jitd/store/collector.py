"""Carries out collections, in slices, beside everybody who serves and publishes.

An entry goes under its key's lock, which is tried once: a key that is being made is left alone. The manifest is renamed
away and the folder synced; then the leases are looked at once more, and the manifest is put back if the entry was
handed out meanwhile; else the artifact is removed, and the manifest at last. A crash between leaves the manifest under
its other name: whoever looks for it, or the next start, puts it back (``recovery``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError, StoreFullError
from mlc_jit.held import is_held
from mlc_jitd.store import collected, inventory, quarantine
from mlc_jitd.store.collected import LastCollection
from mlc_jitd.store.collection import DAY, Candidate, Decision, Facts, Plan, Rules, plan
from mlc_jitd.store.files import sync_folder
from mlc_jitd.store.inventory import UNREADABLE, Inventory, manifest_of
from mlc_jitd.store.kernels import KernelStore
from mlc_jitd.store.layout import is_key
from mlc_jitd.store.reserve import Reserve
from mlc_jitd.store.staging import free_bytes
from mlc_jitd.store.trouble import FULL, translated
from mlc_jitd.store.upstream import UpstreamNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mlc_jitd.store.layout import Layout
    from mlc_jitd.store.leases import Leases
    from mlc_jitd.store.locks import KeyLock
    from mlc_jitd.store.store import Store
    from mlc_jitd.store.uses import Uses

logger = logging.getLogger(__name__)

SLICE = 32
"""Entries whose locks are held at a time, and for which the folder is synced once."""

ROUNDS = 8
"""How often what could not be taken is replaced by something else."""

LOG_DAYS = 7.0
"""How long the log of a compile is kept that left no entry."""

BUSY = "being made or looked after by another process"
PUBLISHED = "published a moment ago"
LENT = "handed out a moment ago"
COPYING = "its copies under upstream's names are being made by another process"


@dataclass(frozen=True, slots=True)
class Collection:
    """What was done, or with a dry run would be.

    Attributes:
        plan: What stays and what goes, as it came out in the end.
        rules: By which.
        facts: As they were when it was planned.
        removed: The artifacts that are gone.
        freed: Their bytes.
        kernels: Bytes of kernels that were removed before, since the disk was short of room.
        remains: Files of keys that are gone, and old damage, that were removed.
        seconds: How long it took.
        stopped: Whether it was ended before its end.
    """

    plan: Plan
    rules: Rules
    facts: Facts
    removed: frozenset[str]
    freed: int
    remains: int
    seconds: float
    stopped: bool = False
    kernels: int = 0


class Collector:
    """Collects in one home. One collection at a time, from any thread; several processes may collect side by side.

    Args:
        store: The cache; opened.
        leases: Who uses what.
        uses: When what was used.
        free: Free bytes on the file system of a path.
        clock: Unix time.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        uses: Uses,
        *,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._layout: Layout = store.layout
        self._leases = leases
        self._uses = uses
        self._free = free
        self._clock = clock
        self._upstream = UpstreamNames(store.layout, free=free, clock=clock)
        self._copied: dict[str, int] = {}
        self.library = store.layout.library
        self.kernels = KernelStore(self.library, limit=0)
        self.reserve = Reserve(self._layout.library / ".reserve", free)

    def collect(
        self,
        rules: Rules,
        *,
        pinned: Mapping[str, str] | None = None,
        stale: Mapping[str, float] | None = None,
        dry: bool = False,
        breathe: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Collection:
        """Bring the cache within the rules, as far as nothing protects what would have to go.

        Args:
            rules: What it may take.
            pinned: By key: why it is kept.
            stale: By key: since when no model folder asks for it, as Unix time.
            dry: Remove nothing.
            breathe: Called between small steps: a chance for others.
            stop: Whether to end before the end; asked between slices.

        Raises:
            StoreUnwritableError: Nothing can be removed here.
            StoreError: The folder can't be listed, or it can't be told what is leased; nothing was removed.

        Not guaranteed: that the file system has what was freed at once, while processes still map what was removed.
        """
        began = time.monotonic()
        if not dry:
            self._store.require_writable()
        with translated("look at the cache", self._layout.library):
            self._copied = self._copies()
            found = inventory.take(self._layout, self._uses.read(), self._copied, breathe)
        room, kernels = self._room(), 0
        if room is not None and rules.min_free is not None and room < rules.min_free:
            kernels = self._drop_kernels(rules.min_free - room, dry=dry)
            room += kernels
        facts = Facts(
            now=self._clock(),
            free=room,
            leased=self._leases.held(),
            pinned=pinned or {},
            stale=stale or {},
            spared=found.puzzling,
        )
        gone: set[str] = set()
        stopped = False
        for _ in range(ROUNDS):
            planned = plan(found.candidates, rules, facts)
            wanted = [each for each in planned.removals if each.candidate.artifact not in gone]
            spared: dict[str, str] = {}
            for at in range(0, len(wanted), SLICE):
                if stop():
                    stopped = True
                    break
                removed, kept = self._slice(wanted[at : at + SLICE], dry=dry)
                gone |= removed
                spared |= kept
                breathe()
            if stopped or not spared:
                break
            facts = dataclasses.replace(facts, spared={**facts.spared, **spared})
        freed = sum(each.size for each in found.candidates if each.artifact in gone)
        remains = 0 if dry or stopped else self._remains(found)
        if not dry:
            self.reserve.fill()
            over, short = planned.over, planned.short
            collected.write(self._layout, LastCollection(self._clock(), len(gone), freed, over, short))
        seconds = time.monotonic() - began
        return Collection(planned, rules, facts, frozenset(gone), freed, remains, seconds, stopped, kernels)

    def keys(self) -> list[str]:
        """The keys that have a manifest."""
        return self._store.keys()

    def last(self) -> LastCollection | None:
        """What the last collection did, here or in another process."""
        return collected.last(self._layout)

    def _copies(self) -> dict[str, int]:
        """By key: what the copies of its artifact under upstream's names take."""
        found: dict[str, int] = {}
        for copy in self._upstream.names():
            found[copy.key] = found.get(copy.key, 0) + copy.size
        return found

    def _drop_kernels(self, lack: int, *, dry: bool) -> int:
        """Kernels go before libraries: each is made anew in less time, and none is handed out. Their bytes."""
        there = self.kernels.totals().bytes
        return min(lack, there) if dry else self.kernels.trim(max(0, there - lack))

    def _room(self) -> int | None:
        try:
            return self._free(self._layout.library)
        except OSError:
            return None

    # --- one slice --------------------------------------------------------------------------------------------------

    def _slice(self, decisions: list[Decision], *, dry: bool) -> tuple[set[str], dict[str, str]]:
        """Take some; returns the artifacts that are gone, and why others were left."""
        spared: dict[str, str] = {}
        locks: dict[str, KeyLock] = {}
        try:
            for candidate in (decision.candidate for decision in decisions):
                busy = self._busy(candidate.key) if dry else self._take(candidate.key, locks)
                doubt = busy or self._doubt(candidate)
                if doubt:
                    spared[candidate.artifact] = doubt
            ready = [each.candidate for each in decisions if each.candidate.artifact not in spared]
            if dry:
                return {each.artifact for each in ready}, spared
            # What another collection took is gone; its key may have another entry by now.
            left = [each for each in ready if os.path.lexists(self._layout.library / each.artifact)]
            self._take_away(left, spared)
            return {each.artifact for each in ready} - spared.keys(), spared
        finally:
            for lock in locks.values():
                lock.release()

    def _take_away(self, left: list[Candidate], spared: dict[str, str]) -> None:
        """Remove some, whose keys are locked; those of them that can't go are ``spared``."""
        with contextlib.ExitStack() as stack:
            # Not waited for: others wait for the keys.
            uncopy = self._removal(stack)
            if uncopy is None:
                spared |= {each.artifact: COPYING for each in left if self._has_copies(each)}
            away = [each for each in left if each.artifact not in spared and self._put_away(each, spared)]
            with contextlib.suppress(OSError):
                sync_folder(self._layout.library)  # before what they name goes
            try:
                held = self._leases.held()
            except StoreError as error:
                held = {}
                spared |= {each.artifact: f"may be in use: {error.message}" for each in away}
            for each in away:
                self._remove(each, held, uncopy, spared)

    def _removal(self, stack: contextlib.ExitStack) -> Callable[[str], int] | None:
        with contextlib.suppress(OSError):
            return stack.enter_context(self._upstream.removal())
        return None

    def _has_copies(self, each: Candidate) -> bool:
        return each.kind == "entry" and each.key in self._copied

    def _busy(self, key: str) -> str:
        """What ``_take`` would say, without taking the lock."""
        return BUSY if is_held(self._layout.locks / key) else ""

    def _take(self, key: str, locks: dict[str, KeyLock]) -> str:
        """Take a key's lock; why that can't be, or an empty string."""
        if key in locks:
            return ""
        try:
            lock = self._lock(key)
        except StoreError as error:
            return f"can't be locked: {error.message}"
        if lock is None:
            return BUSY
        locks[key] = lock
        return ""

    def _lock(self, key: str) -> KeyLock | None:
        lock = self._store.lock(key)
        try:
            return lock if lock.acquire(0) else None
        except StoreFullError:
            if not self.reserve.spend():
                raise
        return lock if lock.acquire(0) else None

    def _doubt(self, each: Candidate) -> str:
        """Why an artifact is no longer what was planned to go, or an empty string. Its key's lock is held."""
        if each.kind == "entry" and self._uses.last(each.key) > each.used:
            return LENT
        if each.kind == "orphan":
            return PUBLISHED if os.path.lexists(self._layout.manifest(each.key)) else ""
        try:
            manifest = manifest_of(self._layout, each.key)
        except FileNotFoundError:
            return ""
        except UNREADABLE as error:
            return f"its manifest can't be read ({error})"
        if (manifest.artifact == each.artifact) is not (each.kind == "entry"):
            return PUBLISHED
        return ""

    def _put_away(self, each: Candidate, spared: dict[str, str]) -> bool:
        """Take an entry's manifest away; whether the artifact may go now."""
        if each.kind != "entry":
            return True
        manifest = self._layout.manifest(each.key)
        for _ in range(2):
            try:
                manifest.rename(self._layout.gone(each.key))
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno in FULL and self.reserve.spend():
                    continue
                spared[each.artifact] = f"can't be removed: {error.strerror}"
                return False
            break
        return True

    def _remove(
        self,
        each: Candidate,
        held: Mapping[str, object],
        uncopy: Callable[[str], int] | None,
        spared: dict[str, str],
    ) -> None:
        try:
            if each.artifact in held:
                spared[each.artifact] = LENT
            elif each.artifact not in spared:
                if uncopy is not None and self._has_copies(each):
                    uncopy(each.key)  # one that was made since then is an orphan, for the next time
                (self._layout.library / each.artifact).unlink(missing_ok=True)
        except OSError as error:
            spared[each.artifact] = f"can't be removed: {error.strerror}"
        if each.kind != "entry":
            return
        gone = self._layout.gone(each.key)
        if each.artifact in spared:
            with contextlib.suppress(FileNotFoundError):
                gone.rename(self._layout.manifest(each.key))
        else:
            for path in (gone, self._layout.logs / f"{each.key}.log"):
                with contextlib.suppress(OSError):
                    path.unlink()
            self._uses.forget(each.key)

    # --- what is left over ------------------------------------------------------------------------------------------

    def _remains(self, found: Inventory) -> int:
        """Remove what belongs to keys that are gone, and old damage; returns how much that was."""
        count = quarantine.prune(self._layout, now=self._clock())
        with contextlib.ExitStack() as stack:
            uncopy = self._removal(stack)
            for key in self._upstream.orphans() if uncopy is not None else ():
                with contextlib.suppress(OSError):
                    count += uncopy is not None and uncopy(key) > 0
        for path, old in self._of_keys():
            key = path.name.removesuffix(".log")
            if not is_key(key) or key in found.keys or os.path.lexists(self._layout.manifest(key)) or not old:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                count += 1
        return count

    def _of_keys(self) -> Iterator[tuple[Path, bool]]:
        """Files that belong to a key, and whether they may go when it has no entry."""
        for folder, least in ((self._layout.used, DAY / 24), (self._layout.logs, LOG_DAYS * DAY)):
            with contextlib.suppress(OSError):
                for path in folder.iterdir():
                    with contextlib.suppress(OSError):
                        yield path, self._clock() - path.lstat().st_mtime > least
