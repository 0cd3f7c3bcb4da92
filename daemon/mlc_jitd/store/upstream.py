"""Copies of entries under the names at which upstream's own ``jit()`` looks, and files that upstream itself left.

::

    model_lib/<md5>.<suffix>             upstream's library, or a copy of ours: an inode of its own
    model_lib/.upstream/<md5>.json       the copy is ours: of which entry, and what the file looked like
    model_lib/.upstream/.lock            held while copies are made or removed

Upstream moves files over that name with ``shutil.move``, which may write into the inode that is there: so a copy never
shares its inode with an artifact. A file whose content is not what we wrote is not ours, and is left alone; one that
looks different is read to know, since a home that was copied has other inodes (``marks``). What belongs here: these
names. Not: what a request's md5 is (``identity``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import stat
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from mlc_jitd.store.access import distrust
from mlc_jitd.store.copies import NAME, Copy, Records
from mlc_jitd.store.copying import copied
from mlc_jitd.store.marks import Comparison, Mark, mark_of
from mlc_jitd.store.staging import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlc_jitd.store.entry import Entry
    from mlc_jitd.store.layout import Layout

logger = logging.getLogger(__name__)

RESERVE_BYTES = 320 << 20
"""Left free: what a build is promised (256 MiB) and what builds leave."""

LOCK_SECONDS = 30.0

Placed = Literal["placed", "there", "another-entry", "another-toolchain", "not-ours", "no-room", "busy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A file under one of upstream's names.

    Attributes:
        path: Where it is.
        modified: Unix time of its last modification.
        uid: Whose it is.
        copy: Its record, where it is a copy of ours and still as we made it.
        doubt: Why it can't be handed out (others may write it, it is a link, …), or an empty text.
        remedy: What to do about that.
    """

    path: Path
    md5: str
    suffix: str
    size: int
    modified: float
    uid: int
    copy: Copy | None = None
    doubt: str = ""
    remedy: str = ""


class UpstreamNames:
    """The files under upstream's names in one home. From any thread, and beside other processes.

    Args:
        layout: Where things lie.
        free: Free bytes on the file system of a path.
        clock: Unix time.
    """

    def __init__(
        self, layout: Layout, *, free: Callable[[Path], int] = free_bytes, clock: Callable[[], float] = time.time
    ) -> None:
        self._library = layout.library
        self._folder = layout.library / ".upstream"
        self._records = Records(self._folder)
        self._free = free
        self._clock = clock
        self._mutex = threading.Lock()
        self._seen = -1
        self._by_key: dict[str, set[str]] = {}
        self._compared = Comparison()

    # --- for the collector ------------------------------------------------------------------------------------------

    def names(self) -> list[Copy]:
        """Every copy that is still as we made it; its bytes count to the entry of its key. Raises nothing."""
        found = (self._records.read(md5) for md5 in self._records.names())
        return [copy for copy in found if copy is not None and self._ours(copy)]

    def named(self, key: str) -> bool:
        """Whether an entry has any copy."""
        with self._mutex:
            try:
                return bool(self._of_key(key))
            except OSError:
                return False

    def remove(self, key: str) -> int:
        """Remove the copies of an entry that is being collected; files that are not ours any more stay.

        Args:
            key: 64 hex digits. Its manifest has been taken away before, so that no copy is made anew.

        Returns:
            Bytes that were removed.

        Raises:
            OSError: A copy can't be removed.
        """
        with self.removal(LOCK_SECONDS) as remove:
            if remove is None:
                raise TimeoutError(errno.ETIMEDOUT, "another process makes copies for upstream", str(self._folder))
            return remove(key)

    @contextlib.contextmanager
    def removal(self, seconds: float = 0.0) -> Iterator[Callable[[str], int] | None]:
        """What ``remove`` does, for many keys; ``None`` while another makes copies. ``seconds``: to wait for that."""
        if not self._folder.is_dir():
            yield lambda _key: 0
            return
        with self._locked(seconds) as locked:
            yield self._remove if locked else None

    def orphans(self) -> set[str]:
        """Keys of copies whose entry is gone: a crash of the collector, or somebody's ``rm``. For ``remove``."""
        return {copy.key for copy in self.names() if not os.path.lexists(self._library / f"{copy.key}.json")}

    def settle(self) -> None:
        """Write down how the copies look whose content is ours and whose inode is not: the home was copied or restored.

        Raises:
            OSError: A record can't be written.
        """
        if not (moved := [copy for copy in self.names() if self._mark(copy.name) not in copy.made]):
            return
        with self._locked() as locked:
            for md5 in (copy.md5 for copy in moved if locked):
                copy = self._records.read(md5)
                mark = None if copy is None else self._mark(copy.name)
                if copy is not None and mark is not None and self._ours(copy):
                    self._records.write(dataclasses.replace(copy, made=(mark,)))

    # --- making -----------------------------------------------------------------------------------------------------

    def place(self, md5: str, suffix: str, entry: Entry) -> Placed:
        """Put a copy of an entry's artifact under an upstream name, where nobody else's file is.

        A name that is there is written anew only for the same entry (after a ``REDO``). Two entries can have one name,
        since upstream's md5 knows less than a key: then the first one keeps it, as with upstream alone.

        Returns:
            ``placed``; ``there``: it was; ``another-entry``, ``another-toolchain``: it is a copy of that;
            ``not-ours``: somebody else's file has the name; ``no-room``, ``busy``: nothing was done.

        Raises:
            OSError: The file system refused; the name is what it was.
        """
        name = f"{md5}.{suffix}"
        if NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:80]!r} is no name of upstream's")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        doubt = distrust(self._folder.lstat(), self._folder)
        if doubt:
            raise PermissionError(errno.EPERM, doubt[0], str(self._folder))
        with self._locked() as locked:
            if not locked:
                return "busy"
            self._of_key(entry.key)
            placed = self._place(md5, suffix, entry)
            self._seen = self._changed()
        return placed

    def _place(self, md5: str, suffix: str, entry: Entry) -> Placed:
        manifest = entry.manifest
        fingerprint = manifest.toolchain.fingerprint
        name = f"{md5}.{suffix}"
        mark, before = self._mark(name), self._records.read(md5)
        if mark is not None:
            if before is None or before.suffix != suffix or not self._ours(before):
                return "not-ours"
            if before.toolchain != fingerprint:
                return "another-toolchain"
            if before.key != entry.key:
                return "another-entry"
            if before.artifact == manifest.artifact:
                return "there"
        if self._free(self._library) < manifest.size + RESERVE_BYTES:
            return "no-room"
        os.lstat(entry.manifest_path)  # gone: it is being collected, and `remove` may have been here
        draft = self._folder / ".copy"
        draft.unlink(missing_ok=True)  # never written into: after a crash it may be the library's second name
        try:
            made = mark_of(copied(self._library / manifest.artifact, draft, manifest.sha256))
            record = Copy(
                md5=md5,
                suffix=suffix,
                key=entry.key,
                artifact=manifest.artifact,
                sha256=manifest.sha256,
                size=manifest.size,
                toolchain=fingerprint,
                versions=", ".join(f"{package} {version}" for package, version in manifest.toolchain.versions.items()),
                made=(made,) if mark is None else (made, mark),
                created=self._clock(),
            )
            self._records.write(record)  # first: a copy without a record would be nobody's for ever
            self._by_key.setdefault(entry.key, set()).add(md5)
            if mark is None:
                try:
                    os.link(draft, self._library / name)  # a rename would replace what came there meanwhile
                except FileExistsError:
                    self._records.remove(md5)
                    return "not-ours"
            else:
                draft.rename(self._library / name)
                self._records.write(dataclasses.replace(record, made=(made,)))
        finally:
            draft.unlink(missing_ok=True)
        return "placed"

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(self, md5: str, suffix: str) -> Left | None:
        """What is under one of upstream's names, or ``None``."""
        path = self._library / f"{md5}.{suffix}"
        try:
            status = path.lstat()
        except OSError:
            return None
        doubt, remedy = _doubt(status, path)
        copy = self._records.read(md5)
        try:
            if copy is not None and (copy.suffix != suffix or not self._same(copy)):
                copy = None
        except OSError as error:
            copy, doubt = None, doubt or f"it can't be read: {error.strerror or error}"
        return Left(
            path=path,
            md5=md5,
            suffix=suffix,
            size=status.st_size,
            modified=status.st_mtime,
            uid=status.st_uid,
            copy=copy,
            doubt=doubt,
            remedy=remedy,
        )

    def left(self) -> Iterator[Left]:
        """Everything under upstream's names, newest first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._library) as entries:
            matches = [match for entry in entries if (match := NAME.fullmatch(entry.name))]
            found = [left for match in matches if (left := self.look(match[1], match[2])) is not None]
        yield from sorted(found, key=lambda each: -each.modified)

    # --- inside -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, seconds: float = LOCK_SECONDS) -> Iterator[bool]:
        lock = FileLock(self._folder / ".lock", mode=0o600, thread_local=False, fallback_to_soft=False)
        if not self._mutex.acquire(timeout=seconds):
            yield False
            return
        try:
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                yield False
                return
            try:
                yield True
            finally:
                lock.release()
        finally:
            self._mutex.release()

    def _remove(self, key: str) -> int:
        removed = sum(self._unlink(md5, key) for md5 in self._of_key(key))
        self._seen = self._changed()
        return removed

    def _of_key(self, key: str) -> list[str]:
        """The names of an entry's copies. Everybody who changes the folder holds the lock, so its time tells all."""
        changed = self._changed()
        if changed != self._seen:
            self._by_key = {}
            for md5 in self._records.names():
                copy = self._records.read(md5)
                if copy is not None:
                    self._by_key.setdefault(copy.key, set()).add(md5)
            self._seen = changed
        return sorted(self._by_key.get(key, ()))

    def _changed(self) -> int:
        return self._folder.stat().st_mtime_ns

    def _unlink(self, md5: str, key: str) -> int:
        copy = self._records.read(md5)
        size = 0
        if copy is not None and copy.key == key:
            with contextlib.suppress(FileNotFoundError):
                if self._same(copy):
                    (self._library / copy.name).unlink()
                    size = copy.size
            self._records.remove(md5)
        self._by_key[key].discard(md5)
        return size

    def _ours(self, copy: Copy) -> bool:
        """Whether a copy is there as we made it; not where that can't be known."""
        try:
            return self._same(copy)
        except OSError:
            return False

    def _same(self, copy: Copy) -> bool:
        path = self._library / copy.name
        return self._compared.same(path, path.lstat(), copy.made, copy.size, copy.sha256)

    def _mark(self, name: str) -> Mark | None:
        try:
            return mark_of((self._library / name).lstat())
        except OSError:
            return None


def _doubt(status: os.stat_result, path: Path) -> tuple[str, str]:
    """Why a file of upstream's can't be handed out, and what to do; empty texts where it can."""
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file", ""
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user (uid {status.st_uid})", ""
    if not status.st_size:
        return f"{path} is empty", f"Remove it: rm {path}"
    return distrust(status, path) or ("", "")
