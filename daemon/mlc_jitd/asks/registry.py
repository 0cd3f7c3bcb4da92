"""The files in which it is kept who asks for what: one for each model folder, one for keys that were pinned by name.

::

    model_lib/.asks/<first 32 of sha256 of the folder's path>.json      a ``Folder``
    model_lib/.asks/keys.json                                           keys pinned by name, and since when
    model_lib/.asks/.lock                                               held while one of them is changed

They name interpreters that a daemon starts, so they are believed only where nobody else may write them. A file that is
missing, torn, foreign or of another format is a folder that nobody has asked for; but while there is one that can't be
read, it is not known what is pinned, and nothing may be collected (``protected``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock, Timeout

from mlc_jit.errors import StoreError
from mlc_jitd.asks.folder import Folder, pinned, stale
from mlc_jitd.store.access import distrust
from mlc_jitd.store.files import (
    ChangedError,
    DamagedError,
    ForeignError,
    Stamp,
    read,
    stamp_of,
    sync_folder,
    write_durably,
)
from mlc_jitd.store.trouble import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = 1
MOST_FOLDERS = 512
MOST_BYTES = 4 << 20
LOCK_SECONDS = 5.0
KEYS = "keys.json"
LOOKS = 5
"""How often a file is read that others replace meanwhile."""


class _UnreadableError(Exception):
    """What stands in a file is not known.

    Args:
        why: A sentence without its stop.
        remedy: What to do.
        lost: Whether there is nothing in it that could be saved.
    """

    def __init__(self, why: str, remedy: str, *, lost: bool = False) -> None:
        super().__init__(why)
        self.remedy = remedy
        self.lost = lost


class _Every(dict[str, str]):
    """Says of every key the same."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return self._why

    def __bool__(self) -> bool:
        return True


class Asks:
    """The registry of one cache home; safe for several threads and processes.

    Where the home can't be written, what changes is kept in memory, so that a daemon there still watches.

    Args:
        library: The folder ``model_lib``.
    """

    def __init__(self, library: Path) -> None:
        self._library = library
        self._folder = library / ".asks"
        self._known: dict[str, tuple[Stamp, Folder | _UnreadableError]] = {}
        self._told: set[str] = set()
        self._unsaved: dict[str, Folder] = {}
        self._mutex = threading.RLock()

    # --- reading ----------------------------------------------------------------------------------------------------

    def folders(self) -> list[Folder]:
        """Every folder that is known; files that did not change are not read again."""
        with self._mutex:
            found = dict(self._unsaved)
            if self._is_ours():
                with contextlib.suppress(_UnreadableError):
                    known = ((name, self._read(name)) for name in self._names())
                    found = {name: folder for name, folder in known if folder} | found
            return list(found.values())

    def folder(self, path: str) -> Folder | None:
        """What is known of one folder."""
        with self._mutex:
            name = _name(path)
            return self._unsaved.get(name) or (self._read(name) if self._is_ours() else None)

    def keys(self) -> dict[str, float]:
        """The keys that were pinned by name, and since when (Unix time)."""
        with self._mutex:
            try:
                return self._read_keys()
            except _UnreadableError as error:
                self._tell(error)
                return {}

    def pinned(self) -> dict[str, str]:
        """Which keys are known to be pinned, and why, in words."""
        return pinned(self.folders(), self.keys())

    def protected(self) -> Mapping[str, str]:
        """Which keys must not be collected, and why: ``pinned``, or every key where it can't be read what is pinned.

        To be asked by key only.
        """
        try:
            with self._mutex:
                keys = self._read_keys()
                saved = {name: self._held(name) for name in (self._names() if self._is_ours() else ())}
                folders = [folder for folder in (saved | self._unsaved).values() if folder]
        except _UnreadableError as error:
            self._tell(error, "no entry is collected, since it is not known which are pinned: ")
            return _Every(f"perhaps, since that can't be read: {error}")
        return pinned(folders, keys)

    def stale(self) -> dict[str, float]:
        """Which keys were asked for and are not any more, and since when (Unix time)."""
        return stale(self.folders())

    # --- changing ---------------------------------------------------------------------------------------------------

    def change(self, path: str, how: Callable[[Folder], Folder]) -> Folder:
        """Change what is known of a folder, one process at a time; an unknown one begins empty.

        Raises:
            StoreError: It could not be written, though the home as such can; or what is known can't be read now.
        """
        name = _name(path)
        with self._mutex:
            if self._refusal():
                was = self._unsaved.get(name) or self.folder(path) or Folder(path=path)
                self._unsaved[name] = how(was)
                return self._unsaved[name]
            with self._locked():
                was = self._saved(name) or Folder(path=path)
                folder = how(was)
                if folder != was:
                    self._write(name, {"format": FORMAT, **dataclasses.asdict(folder)})
                    self._bound(name)
            return folder

    def pin_key(self, key: str) -> None:
        """Pin an entry by its key.

        Raises:
            StoreError: It could not be written, or what was pinned before can't be read.
        """
        with self._mutex, self._locked(), _refused():
            self._write_keys(self._read_keys() | {key: time.time()})

    def unpin_key(self, key: str) -> bool:
        """Undo ``pin_key``; whether it was pinned by name.

        Raises:
            StoreError: It could not be written, or it can't be read what was pinned.
        """
        with self._mutex, _refused():
            if key not in self._read_keys():
                return False
            with self._locked():
                self._write_keys({each: since for each, since in self._read_keys().items() if each != key})
            return True

    # --- files ------------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if _is_folder(name)]  # noqa: PTH208 - only names
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _trouble(self._folder, error) from error

    def _read(self, name: str) -> Folder | None:
        """What a folder's file holds; nothing where it can't be read."""
        try:
            return self._held(name)
        except _UnreadableError as error:
            self._tell(error)
            return None

    def _saved(self, name: str) -> Folder | None:
        """What a folder's file holds, in order to write it anew; nothing where there is nothing to be saved."""
        with _refused():
            try:
                return self._held(name)
            except _UnreadableError as error:
                if not error.lost:
                    raise
                self._tell(error)
                return None

    def _held(self, name: str) -> Folder | None:
        """What a folder's file holds, from memory where it is what it was; ``None`` if there is none."""
        path = self._folder / name
        try:
            stamp = stamp_of(path.lstat())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _trouble(path, error) from error
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            # Every write makes a new inode and takes a while: an equal stamp is an equal file.
            found = self._parsed(path, name)
            if found is None:
                return None
            known = self._known[name] = (stamp, found)
        if isinstance(known[1], _UnreadableError):
            raise known[1].with_traceback(None)
        return known[1]

    def _parsed(self, path: Path, name: str) -> Folder | _UnreadableError | None:
        try:
            held = self._load(path)
        except _UnreadableError as error:
            if not error.lost:
                raise
            return error
        if held is None:
            return None
        try:
            folder = msgspec.convert({each: held[each] for each in held if each != "format"}, Folder)
        except (msgspec.ValidationError, TypeError) as error:
            return _lost(path, error)
        return folder if _name(folder.path) == name else _lost(path, "it speaks of another folder")

    def _load(self, path: Path) -> dict[str, Any] | None:
        for look in range(LOOKS):
            try:
                held = json.loads(read(path, MOST_BYTES)[0])
                break
            except FileNotFoundError:
                return None
            except ForeignError as error:
                raise _UnreadableError(str(error), error.remedy) from error
            except (ValueError, RecursionError, DamagedError) as error:
                raise _lost(path, error) from error
            except (OSError, ChangedError) as error:
                if not isinstance(error, ChangedError) or look == LOOKS - 1:
                    raise _trouble(path, error) from error
        if isinstance(held, dict) and held.get("format") == FORMAT:
            return held
        raise _lost(path, "it is of another version")

    def _read_keys(self) -> dict[str, float]:
        held = self._load(self._folder / KEYS) if self._is_ours(strict=True) else None
        try:
            return msgspec.convert((held or {}).get("keys") or {}, dict[str, float])
        except msgspec.ValidationError as error:
            raise _lost(self._folder / KEYS, error) from error

    def _tell(self, error: _UnreadableError, what: str = "") -> None:
        """Say it once."""
        said = f"{what}{error}. {error.remedy}"
        if said not in self._told:
            self._told.add(said)
            logger.warning("%s", said)

    def _write_keys(self, keys: dict[str, float]) -> None:
        self._write(KEYS, {"format": FORMAT, "keys": keys})

    def _write(self, name: str, held: dict[str, Any]) -> None:
        torn = self._folder / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
        with translated("note who asks for what", self._folder):
            try:
                write_durably(torn, json.dumps(held).encode(), 0o600)
                torn.replace(self._folder / name)
                sync_folder(self._folder)
            except OSError:
                with contextlib.suppress(OSError):
                    torn.unlink(missing_ok=True)
                raise

    def _bound(self, name: str) -> None:
        """Let the folders go that were asked for longest ago; never one with a pin, nor the one just written."""
        try:
            names = self._names()
        except _UnreadableError:
            return
        over = len(names) - MOST_FOLDERS
        if over <= 0:
            return
        found = [(folder.asked, each, folder) for each in names for folder in [self._read(each)] if folder]
        for _, each, folder in sorted(found, key=lambda row: row[:2]):
            if over > 0 and each != name and folder.keep != "pin":
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

    def _is_ours(self, *, strict: bool = False) -> bool:
        """Whether the folder is there and may be believed; with ``strict``, an error where it is there and may not."""
        try:
            doubt = distrust(self._folder.lstat(), self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            if strict:
                raise _trouble(self._folder, error) from error
            return False
        if doubt and strict:
            raise _UnreadableError(*doubt)
        return not doubt


def _lost(path: Path, why: object) -> _UnreadableError:
    return _UnreadableError(f"{path} is damaged: {why}", f"Remove it: rm {shlex.quote(str(path))}", lost=True)


def _trouble(path: Path, error: Exception) -> _UnreadableError:
    why = error.strerror or error if isinstance(error, OSError) else error
    return _UnreadableError(f"{path} can't be read: {why}", "See to that, and ask again.")


@contextlib.contextmanager
def _refused() -> Any:
    """What can't be read is not written over."""
    try:
        yield
    except _UnreadableError as error:
        raise StoreError(f"{error}: it is not written over.", remedy=error.remedy, reason="unreadable") from error


def _name(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:32] + ".json"


def _is_folder(name: str) -> bool:
    return name.endswith(".json") and name != KEYS and not name.startswith(".")
