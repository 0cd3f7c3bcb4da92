"""The files in which it is kept who asks for what: one for each model folder, one for keys that were pinned by name.

::

    model_lib/.asks/<first 32 of sha256 of the folder's path>.json      a ``Folder``
    model_lib/.asks/keys.json                                           keys pinned by name, and since when
    model_lib/.asks/.lock                                               held while one of them is changed

They name interpreters that a daemon starts, so they are believed only where nobody else may write them. A file that is
missing, torn, foreign or of another format is a folder that nobody has asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock, Timeout

from mlc_jit.errors import StoreError
from mlc_jitd.asks.folder import Folder, pinned, stale
from mlc_jitd.store.access import distrust
from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, Stamp, read, stamp_of
from mlc_jitd.store.trouble import translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = 1
MOST_FOLDERS = 512
MOST_BYTES = 4 << 20
LOCK_SECONDS = 5.0
KEYS = "keys.json"


class Asks:
    """The registry of one cache home; safe for several threads and processes.

    Where the home can't be written, what changes is kept in memory, so that a daemon there still watches.

    Args:
        library: The folder ``model_lib``.
    """

    def __init__(self, library: Path) -> None:
        self._library = library
        self._folder = library / ".asks"
        self._known: dict[str, tuple[Stamp, Folder | None]] = {}
        self._unsaved: dict[str, Folder] = {}
        self._mutex = threading.RLock()

    # --- reading ----------------------------------------------------------------------------------------------------

    def folders(self) -> list[Folder]:
        """Every folder that is known; files that did not change are not read again."""
        with self._mutex:
            found = dict(self._unsaved)
            if self._is_ours():
                with contextlib.suppress(OSError), os.scandir(self._folder) as files:
                    for file in files:
                        folder = self._read(file.name) if _is_folder(file.name) else None
                        if folder is not None:
                            found.setdefault(file.name, folder)
            return list(found.values())

    def folder(self, path: str) -> Folder | None:
        """What is known of one folder."""
        with self._mutex:
            name = _name(path)
            return self._unsaved.get(name) or (self._read(name) if self._is_ours() else None)

    def keys(self) -> dict[str, float]:
        """The keys that were pinned by name, and since when (Unix time)."""
        with self._mutex:
            return self._read_keys()

    def pinned(self) -> dict[str, str]:
        """Which keys must not be collected, and why, in words."""
        return pinned(self.folders(), self.keys())

    def stale(self) -> dict[str, float]:
        """Which keys were asked for and are not any more, and since when (Unix time)."""
        return stale(self.folders())

    # --- changing ---------------------------------------------------------------------------------------------------

    def change(self, path: str, how: Callable[[Folder], Folder]) -> Folder:
        """Change what is known of a folder, one process at a time; an unknown one begins empty.

        Raises:
            StoreError: It could not be written, though the home as such can.
        """
        name = _name(path)
        with self._mutex:
            if self._refusal():
                was = self._unsaved.get(name) or self.folder(path) or Folder(path=path)
                self._unsaved[name] = how(was)
                return self._unsaved[name]
            with self._locked():
                was = self._read(name) or Folder(path=path)
                folder = how(was)
                if folder != was:
                    self._write(name, {"format": FORMAT, **dataclasses.asdict(folder)})
                    self._bound(name)
            return folder

    def pin_key(self, key: str) -> None:
        """Pin an entry by its key.

        Raises:
            StoreError: It could not be written.
        """
        with self._mutex, self._locked():
            self._write_keys(self._read_keys() | {key: time.time()})

    def unpin_key(self, key: str) -> bool:
        """Undo ``pin_key``; whether it was pinned by name.

        Raises:
            StoreError: It could not be written.
        """
        with self._mutex:
            if key not in self._read_keys():
                return False
            with self._locked():
                self._write_keys({each: since for each, since in self._read_keys().items() if each != key})
            return True

    # --- files ------------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Folder | None:
        """A folder's file, from memory where it is what it was."""
        path = self._folder / name
        try:
            stamp = stamp_of(path.lstat())
        except OSError:
            return None
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        folder = None
        held = self._load(path)
        if held is not None:
            with contextlib.suppress(msgspec.ValidationError, TypeError):
                folder = msgspec.convert({each: held[each] for each in held if each != "format"}, Folder)
        if folder is not None and _name(folder.path) != name:
            folder = None
        # Every write makes a new inode and takes a while: an equal stamp is an equal file.
        self._known[name] = (stamp, folder)
        return folder

    def _load(self, path: Path) -> dict[str, Any] | None:
        try:
            held = json.loads(read(path, MOST_BYTES)[0])
        except (OSError, ValueError, RecursionError, ChangedError, DamagedError, ForeignError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning("%s is not believed: %s", path, error)
            return None
        if isinstance(held, dict) and held.get("format") == FORMAT:
            return held
        return None

    def _read_keys(self) -> dict[str, float]:
        held = self._load(self._folder / KEYS) if self._is_ours() else None
        keys = (held or {}).get("keys")
        try:
            return msgspec.convert(keys or {}, dict[str, float])
        except msgspec.ValidationError:
            return {}

    def _write_keys(self, keys: dict[str, float]) -> None:
        self._write(KEYS, {"format": FORMAT, "keys": keys})

    def _write(self, name: str, held: dict[str, Any]) -> None:
        torn = self._folder / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
        with translated("note who asks for what", self._folder):
            try:
                torn.touch(mode=0o600)
                torn.write_text(json.dumps(held))
                torn.replace(self._folder / name)
            except OSError:
                with contextlib.suppress(OSError):
                    torn.unlink(missing_ok=True)
                raise

    def _bound(self, name: str) -> None:
        """Let the folders go that were asked for longest ago; never one with a pin, nor the one just written."""
        names = [file.name for file in self._folder.iterdir() if _is_folder(file.name)]
        over = len(names) - MOST_FOLDERS
        if over <= 0:
            return
        found = [(folder.asked if folder else 0.0, each, folder) for each in names for folder in [self._read(each)]]
        for _, each, folder in sorted(found, key=lambda row: row[:2]):
            if over > 0 and each != name and (folder is None or folder.keep != "pin"):
                (self._folder / each).unlink(missing_ok=True)
                self._known.pop(each, None)
                over -= 1

    @contextlib.contextmanager
    def _locked(self) -> Any:
        with translated("note who asks for what", self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock = FileLock(self._folder / ".lock", mode=0o600, thread_local=False, fallback_to_soft=False)
            try:
                lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.01)
            except Timeout as error:
                raise StoreError(
                    f"{self._folder / '.lock'} has been held by another process for {LOCK_SECONDS:.0f} s.",
                    remedy="Look for a stopped mlc-jitd process, let it go on or end it, and ask again.",
                    reason="locked",
                ) from error
        try:
            if not self._is_ours():
                raise StoreError(
                    f"{self._folder} can be written by others, so what stands in it is not believed.",
                    remedy=f"Remove it: rm -r {self._folder}",
                    reason="unsafe",
                )
            yield
        finally:
            lock.release()

    def _refusal(self) -> bool:
        """Whether nothing can be written: the home is read-only, or not there yet."""
        place = self._folder if self._folder.is_dir() else self._library
        return not os.access(place, os.W_OK | os.X_OK)

    def _is_ours(self) -> bool:
        try:
            return distrust(self._folder.lstat(), self._folder) is None
        except OSError:
            return False


def _name(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32] + ".json"


def _is_folder(name: str) -> bool:
    return name.endswith(".json") and name != KEYS and not name.startswith(".")
