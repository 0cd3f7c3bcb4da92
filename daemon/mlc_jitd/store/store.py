"""The cache of compiled libraries in one home: finding, verifying and publishing. It knows nothing of models.

The folder is the database: a copied or synchronised ``model_lib`` works as it is. Leases, collection and read-only
lower layers stand beside this class, not in it: a layer is a ``Store`` opened with ``writable=False``, and a
``Collector`` removes files under the key's lock.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError, StoreUnwritableError
from mlc_jitd.store.entry import Entry, Found, Missing, Totals
from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, Stamp, stamp_of
from mlc_jitd.store.finding import Finder
from mlc_jitd.store.layout import Layout, check_key, key_of_artifact, key_of_manifest
from mlc_jitd.store.locks import KeyLock, KeyLocks
from mlc_jitd.store.manifest import Manifest, ManifestInvalidError, ManifestNewerError
from mlc_jitd.store.prepare import make_folders, odd_file_system, refuse_unsafe
from mlc_jitd.store.publish import publish
from mlc_jitd.store.staging import Staging, free_bytes
from mlc_jitd.store.sweep import GRACE_SECONDS, SweepReport, sweep
from mlc_jitd.store.trouble import translated
from mlc_jitd.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping
    from contextlib import AbstractContextManager

    from mlc_jitd.store.layers import Layer
    from mlc_jitd.store.manifest import About

RESERVE_BYTES = 64 << 20
"""What builds leave free on the cache's file system."""


class Store:
    """The artifacts and manifests of one cache home. Every method may be called from any thread.

    Args:
        home: ``MLC_LLM_HOME``; entries live in ``home/model_lib``.
        free: Free bytes on the file system of a path.
        reserve: Bytes that builds leave free.
        clock: Unix time.
        leased: The artifacts that are in use on this host.
    """

    def __init__(
        self,
        home: Path,
        *,
        free: Callable[[Path], int] = free_bytes,
        reserve: int = RESERVE_BYTES,
        clock: Callable[[], float] = time.time,
        leased: Callable[[], Container[str]] = frozenset,
    ) -> None:
        # Absolute, since paths are handed out to other processes.
        self.layout = Layout.of(home.absolute())
        self._clock = clock
        self._leased = leased
        self._locks = KeyLocks(self.layout.locks)
        self._staging = Staging(self.layout.staging, free=free, reserve=reserve)
        self._finder = Finder(
            self.layout, self._locks, clock=clock, count=self._count, writable=lambda: self._refusal is None
        )
        self._tally = Tally()
        self._writable = False
        self._refusal: StoreError | None = StoreUnwritableError(
            f"The cache in {self.layout.library} was opened for reading only.", reason="read-only"
        )

    # --- life -------------------------------------------------------------------------------------------------------

    def open(self, *, writable: bool = True, grace: float = GRACE_SECONDS) -> SweepReport:
        """Make and check the folders, and sweep what a crash left.

        A home that can't be written is no error: entries in it are served, and what would add one raises
        ``StoreUnwritableError``.

        Args:
            writable: Whether entries will be added; if not, nothing in the home is touched.
            grace: Seconds for which an artifact without a manifest is left alone.

        Raises:
            StoreUnwritableError: Others could write to the folder: nothing in it can be trusted. The error names the
                path and the command that closes it.
            StoreError: The folder can't be looked at.
        """
        warnings = refuse_unsafe(self.layout)
        self._writable = writable
        if not writable:
            return SweepReport(writable=False, warnings=warnings)
        self._refusal = make_folders(self.layout)
        if self._refusal is not None:
            return SweepReport(writable=False, warnings=(*warnings, self._refusal.message))
        warnings = (*refuse_unsafe(self.layout), *filter(None, [odd_file_system(self.layout)]))
        with translated("remove leftovers", self.layout.library):
            report = sweep(
                self.layout,
                self._locks,
                self._staging,
                now=self._clock(),
                grace=grace,
                leased=self._leased,
                warnings=warnings,
            )
        self._count("swept_staging", report.staging)
        self._count("swept_artifacts", report.artifacts)
        return report

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Found | Missing:
        """The key's library, if a whole one is there.

        The artifact is hashed the first time that this process hands it out, again whenever its stamp changed, and
        until two seconds have passed since it last changed; else stat alone is asked. A damaged entry is moved to
        quarantine, unless another process is just making the key anew.

        Args:
            key: 64 hex digits.

        Raises:
            ValueError: The key is something else.
            StoreError: This process or the file system is in trouble; it says nothing of the entry.
        """
        return self._finder.find(check_key(key))

    def unchanged(self, entry: Entry) -> bool:
        """Whether an entry of this process may be handed out again: two stat calls, no lock.

        ``False`` only means: ask ``find``. An entry that was published or copied here within the last two seconds is
        never ``unchanged``.

        Not guaranteed: that it is still so a moment later. What was handed out stays whole even then: a new library
        has a new path, and an old one is removed by a collector that knows who uses it.
        """
        return self._finder.unchanged(entry)

    def still(self, entry: Entry) -> bool:
        """Whether artifact and manifest are the files that they were: two stat calls, for who has just leased them.

        Not guaranteed: that equal stamps prove equal content; that is what ``unchanged`` asks.
        """
        return self._finder.still(entry)

    # --- publishing -------------------------------------------------------------------------------------------------

    def lock(self, key: str) -> KeyLock:
        """The lock that everybody holds who compiles or publishes the key.

        Raises:
            ValueError: The key is not 64 hex digits.
            StoreUnwritableError: Entries can't be added here, so there is nothing to lock.
        """
        self.require_writable()
        return self._locks.lock(key)

    def staging(self, key: str, *, need: int) -> AbstractContextManager[Path]:
        """A fresh folder on the artifacts' file system for one build, removed when the context ends.

        Args:
            key: 64 hex digits.
            need: Bytes that the build may write.

        Raises:
            StoreFullError: They would not fit beside the reserve and what running builds were promised; raised when
                the context is entered.
            StoreUnwritableError: Entries can't be added here.
        """
        self.require_writable()
        return self._staging.folder(check_key(key), need)

    def publish(self, key: str, staged: Path, about: About) -> Entry:
        """Make a library the key's entry. Readers see the old entry or the new one, and never a part.

        The file is hashed, made read-only, synced and renamed to the name that its content gives it; then the manifest
        is renamed into place, which is the commit. An entry's older artifact stays, for whoever uses it.

        Args:
            key: 64 hex digits; the caller holds its lock.
            staged: The library, in a folder that ``staging`` gave. It is moved, not copied.
            about: What the manifest will say.

        Raises:
            ValueError: A bad key or suffix, or ``staged`` lies elsewhere.
            RuntimeError: The key's lock is not held by this process, through this object.
            StoreFullError: The disk or the quota is full; nothing is visible.
            StoreUnwritableError: The folder can't be written; nothing is visible.
            StoreError: ``staged`` is missing, empty or no regular file, or the file system failed.

        Not guaranteed: that the file stays as it was hashed when a process of the build still writes to it; the next
        ``find`` sees that.
        """
        self.require_writable()
        if not self._locks.held(check_key(key)):
            raise RuntimeError(f"publish needs the lock of {key}: hold Store.lock(key) from before the compile")
        finder = self._finder
        with translated("publish a library", self.layout.library, key=key):
            done = publish(
                self.layout, key, staged, about, now=self._clock(), commit=finder.commit, damaged=finder.move
            )
            self._count("identical" if done.identical else "published")
            return finder.remember(done.manifest, done.artifact_stamp, done.manifest_stamp, self._clock())

    def require_writable(self) -> None:
        """Look whether entries can be added and removed, once more where they could not.

        Raises:
            StoreUnwritableError: They can't be; any other ``StoreError`` where that is why.
        """
        if self._refusal is not None and self._writable:
            self._refusal = make_folders(self.layout)  # a disk that was full, say, may have room by now
        if self._refusal is not None:
            raise copy.copy(self._refusal)  # one error raised in many threads would gather their tracebacks

    # --- looking around ---------------------------------------------------------------------------------------------

    def manifests(self) -> Iterator[Manifest]:
        """Every readable manifest, in the order of the keys; artifacts are not looked at, bad manifests are counted.

        Raises:
            StoreError: The folder can't be listed.
        """
        for _, manifest, _ in self.stamped({}):
            if manifest is not None:
                yield manifest

    def stamped(self, known: Mapping[str, Stamp]) -> Iterator[tuple[str, Manifest | None, Stamp]]:
        """As ``manifests``, with key and stamp; ``None`` where the stamp is the ``known`` one, and nothing is read."""
        for key in self.keys():
            try:
                if key in known and stamp_of(os.lstat(self.layout.manifest(key))) == known[key]:
                    yield key, None, known[key]
                else:
                    yield key, *self._finder.manifest(key)
            except FileNotFoundError:
                continue
            except (DamagedError, ForeignError, ChangedError, ManifestInvalidError, ManifestNewerError, OSError):
                self._count("unreadable_manifests")

    def keys(self) -> list[str]:
        """The keys that have a manifest, sorted; reads no file.

        Raises:
            StoreError: The folder can't be listed.
        """
        return sorted(key for key in map(key_of_manifest, self._names()) if key)

    def every_key(self) -> list[str]:
        """``keys``, with those of the layers."""
        return self.keys()

    def manifest(self, key: str) -> Manifest | None:
        """The key's manifest, if a good one is there; its artifact is not looked at."""
        with contextlib.suppress(
            DamagedError, ForeignError, ChangedError, ManifestInvalidError, ManifestNewerError, OSError
        ):
            return self._finder.manifest(check_key(key))[0]
        return None

    def set_aside(self, entry: Entry, why: str) -> str:
        """Move an entry to quarantine that somebody else found wrong, if it is still the one that was looked at.

        Args:
            entry: As ``find`` gave it; the caller holds its key's lock.
            why: A sentence without its stop.

        Returns:
            Where it is now, for people.

        Raises:
            RuntimeError: The key's lock is not held by this process.
            StoreError: It was replaced meanwhile, or can't be moved.
        """
        if not self._locks.held(entry.key):
            raise RuntimeError(f"set_aside needs the lock of {entry.key}")
        files = ((Path(entry.manifest_path), entry.manifest_stamp), (Path(entry.path), entry.artifact_stamp))
        with translated("move a damaged entry", self.layout.library, key=entry.key):
            try:
                return self._finder.move(entry.key, why, files)
            except ChangedError as error:
                raise StoreError(
                    f"The entry of {entry.key} was replaced while it was looked at.", reason="restless", key=entry.key
                ) from error

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The read-only caches below this one; see ``LayeredStore``."""
        return ()

    def layer_of(self, entry: Entry) -> str:  # noqa: ARG002 - a store without layers
        """The layer that an entry lies in; empty for the home."""
        return ""

    def everything(self) -> Iterator[tuple[str, Path, Manifest]]:
        """Every readable entry that would be found: its layer (empty for the home), its artifact, its manifest."""
        for manifest in self.manifests():
            yield "", self.layout.library / manifest.artifact, manifest

    def totals(self) -> Totals:
        """How many entries there are and what their artifacts take; reads no file."""
        entries = size = 0
        library = str(self.layout.library)
        for name in self._names():
            if key_of_manifest(name):
                entries += 1
            elif key_of_artifact(name):
                with contextlib.suppress(FileNotFoundError):
                    size += os.lstat(f"{library}/{name}").st_size
        return Totals(entries, size)

    def counters(self) -> dict[str, int]:
        """How often what happened since this object was made.

        ``absent``, ``damaged``, ``foreign``: misses; ``hashed``: artifacts hashed to hand them out; ``published``,
        and ``identical`` where the content was there already; ``quarantined``; ``swept_staging``, ``swept_artifacts``;
        ``unreadable_manifests``: met while listing.
        """
        return self._tally.read()

    def _names(self) -> list[str]:
        with translated("list the entries", self.layout.library):
            try:
                return os.listdir(self.layout.library)  # noqa: PTH208 - twenty thousand of them
            except FileNotFoundError:
                return []

    def _count(self, name: str, by: int = 1) -> None:
        self._tally.add(name, by)
