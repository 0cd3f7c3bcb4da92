"""An entry looked up, verified and, when it is damaged, moved away. Publishing has its own room."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError
from mlc_jitd.store import quarantine
from mlc_jitd.store.entry import Entry, Found, Missing
from mlc_jitd.store.files import (
    ChangedError,
    DamagedError,
    ForeignError,
    Stamp,
    digest,
    opened,
    read,
    settled,
    stamp_of,
)
from mlc_jitd.store.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestInvalidError, ManifestNewerError, decode
from mlc_jitd.store.recovery import put_back
from mlc_jitd.store.trouble import translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.store.layout import Layout
    from mlc_jitd.store.locks import KeyLocks

_LOOKS = 8
"""How often an entry is looked at that changes under our eyes; each time somebody else made progress."""

_COLLECTOR_SECONDS = 2.0
"""How long a look-up waits for a collector that holds the key; it needs milliseconds."""

_REMEMBERED = 4096
"""Verified entries kept in memory; a manifest takes some 20 KB there."""

_STRIPES = 16


class Finder:
    """Finds entries of one home, and remembers which it has verified. Every method may be called from any thread.

    Args:
        layout: Where things lie.
        locks: The locks of this home.
        clock: Unix time.
        count: Told what happened, by name.
        writable: Whether damaged files can be moved away.
    """

    def __init__(
        self,
        layout: Layout,
        locks: KeyLocks,
        *,
        clock: Callable[[], float],
        count: Callable[[str], None],
        writable: Callable[[], bool],
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._clock = clock
        self._count = count
        self._writable = writable
        self._verified: dict[str, Entry] = {}
        self._left: dict[str, tuple[Stamp, Stamp | None, str]] = {}
        # Two threads that ask for one entry hash it once.
        self._verifying = tuple(threading.Lock() for _ in range(_STRIPES))
        self.commit = threading.Lock()
        """Held between the last look at a manifest and its move or replacement, against this process's own threads;
        the key's lock holds off other processes."""

    def unchanged(self, entry: Entry) -> bool:
        """See ``Store.unchanged``."""
        return entry.settled and self.still(entry)

    def still(self, entry: Entry) -> bool:
        """See ``Store.still``."""
        try:
            return (
                stamp_of(os.lstat(entry.path)) == entry.artifact_stamp
                and stamp_of(os.lstat(entry.manifest_path)) == entry.manifest_stamp
            )
        except OSError:
            return False

    def find(self, key: str) -> Found | Missing:
        """See ``Store.find``; the key is a safe one."""
        entry = self._verified.get(key)
        if entry is not None and self.unchanged(entry):
            return Found(entry)
        with self._verifying[int(key[:8], 16) % _STRIPES], translated("look", self._layout.library, key=key):
            entry = self._verified.get(key)
            if entry is not None and self.unchanged(entry):
                return Found(entry)
            for _ in range(_LOOKS):
                try:
                    found = self._look(key)
                except ChangedError:
                    continue
                if isinstance(found, Missing):
                    self._verified.pop(key, None)
                    self._count(found.reason)
                return found
        raise StoreError(f"The entry of {key} changes faster than it can be read.", reason="restless", key=key)

    def manifest(self, key: str) -> tuple[Manifest, Stamp]:
        """The key's manifest and its stamp.

        Raises:
            FileNotFoundError: There is none.
            DamagedError, ManifestInvalidError: It is damaged.
            ForeignError: Others decide about it.
            ManifestNewerError: A later version wrote it.
            ChangedError: It changed meanwhile.
        """
        payload, stamp = read(self._layout.manifest(key), MAX_MANIFEST_BYTES)
        return decode(payload, key), stamp

    def remember(self, manifest: Manifest, artifact: Stamp, manifest_stamp: Stamp, now: float) -> Entry:
        """The entry for an artifact that was hashed, and had these stamps, at the Unix time ``now``."""
        entry = Entry(
            key=manifest.key,
            path=str(self._layout.library / manifest.artifact),
            size=manifest.size,
            manifest=manifest,
            manifest_path=str(self._layout.manifest(manifest.key)),
            artifact_stamp=artifact,
            manifest_stamp=manifest_stamp,
            settled=settled(artifact, now) and settled(manifest_stamp, now),
        )
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._left.pop(manifest.key, None)
        self._verified[manifest.key] = entry
        return entry

    def move(self, key: str, why: str, files: tuple[tuple[Path, Stamp], ...]) -> str:
        """Move damaged files to quarantine; the caller holds the key's lock.

        Returns:
            Where they are, for people.

        Raises:
            ChangedError: They are no longer those that were judged.
            OSError: They can't be moved.
        """
        with self.commit:
            folder = quarantine.set_aside(self._layout, key, why, files, now=self._clock())
        self._count("quarantined")
        return f"moved to {folder}"

    def _look(self, key: str) -> Found | Missing:
        path = self._layout.manifest(key)
        try:
            manifest_stamp = stamp_of(os.lstat(path))
        except FileNotFoundError:
            if self._comes_back(key):
                raise ChangedError from None
            return Missing("absent", f"{self._layout.library} has no entry for this key")
        try:
            manifest, read_stamp = self.manifest(key)
        except FileNotFoundError as error:
            raise ChangedError from error
        except ForeignError as error:
            return Missing("foreign", str(error), error.remedy)
        except ManifestNewerError as error:
            return Missing("absent", str(error), "Use the version of mlc-jitd that made it.")
        except (DamagedError, ManifestInvalidError) as error:
            return self._damaged(key, f"{path.name}: {error}", manifest_stamp, None, None)
        if read_stamp != manifest_stamp:
            raise ChangedError
        return self._artifact(key, manifest, manifest_stamp)

    def _comes_back(self, key: str) -> bool:
        """Whether a collector that has taken the manifest away puts it back, or was ended before it could."""
        if not os.path.lexists(self._layout.gone(key)) or not self._writable():
            return False
        return put_back(self._layout, self._locks, key, timeout=_COLLECTOR_SECONDS)

    def _artifact(self, key: str, manifest: Manifest, manifest_stamp: Stamp) -> Found | Missing:
        path = self._layout.library / manifest.artifact
        stamp: Stamp | None = None
        try:
            stamp = stamp_of(os.lstat(path))
            left = self._left.get(key)
            if left is not None and left[:2] == (manifest_stamp, stamp):
                return self._damaged(key, left[2], manifest_stamp, path, stamp)
            read_stamp = self._verify(path, manifest)
            now = self._clock()
        except FileNotFoundError:
            # Or it was the old one of an entry that was switched meanwhile: _damaged looks at that.
            return self._damaged(key, f"{path} is missing", manifest_stamp, None, None)
        except ForeignError as error:
            return Missing("foreign", str(error), error.remedy)
        except DamagedError as error:
            return self._damaged(key, str(error), manifest_stamp, path, stamp)
        if read_stamp != stamp:
            raise ChangedError
        return Found(self.remember(manifest, stamp, manifest_stamp, now))

    def _verify(self, path: Path, manifest: Manifest) -> Stamp:
        with opened(path) as (fd, status):
            if status.st_size != manifest.size:
                raise DamagedError(f"{path} has {status.st_size} bytes instead of {manifest.size}")
            self._count("hashed")
            found, stamp = digest(fd, path)
        if found != manifest.sha256:
            raise DamagedError(f"{path} has the sha256 {found} instead of {manifest.sha256}")
        return stamp

    def _damaged(self, key: str, why: str, manifest: Stamp, path: Path | None, artifact: Stamp | None) -> Missing:
        """Move a damaged entry away, if it is still the one that was judged."""
        files = [(self._layout.manifest(key), manifest)]
        if path is not None and artifact is not None:
            files.append((path, artifact))
        if not all(quarantine.still(*file) for file in files):
            raise ChangedError
        try:
            kept = self._set_aside(key, why, tuple(files))
        except (OSError, StoreError) as error:
            kept = f"left in place: {error}"
        # What could not be moved is not hashed again while it stays as it is.
        if len(self._left) >= _REMEMBERED:
            self._left.clear()
        self._left[key] = (manifest, artifact, why)
        return Missing("damaged", f"{why} ({kept})")

    def _set_aside(self, key: str, why: str, files: tuple[tuple[Path, Stamp], ...]) -> str:
        if not self._writable():
            return "left in place: it is only read here"
        if self._locks.held(key):
            return self.move(key, why, files)
        lock = self._locks.lock(key)
        if not lock.acquire(0):
            return "left in place: another process is making it anew"
        try:
            return self.move(key, why, files)
        finally:
            lock.release()
