"""Damaged files, moved out of the way with a note that says why and when. Nothing is ever handed out from here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

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
from mlc_jitd.store.staging import remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jitd.store.layout import Layout

KEEP = 16
"""How many damaged entries are kept for people to look at; the oldest go first."""

_NOTE = "why.json"
_NOTE_BYTES = 1 << 20
_FOLDER = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{16}-[0-9a-f]{8}", re.ASCII)
KEEP_BYTES = 1 << 30
KEEP_SECONDS = 30 * 86400.0


def set_aside(layout: Layout, key: str, why: str, files: tuple[tuple[Path, Stamp], ...], *, now: float) -> Path:
    """Move damaged files into a folder of their own.

    The note comes first and the first file is the commit: a crash leaves the damage as it was, or gone.

    Args:
        layout: Where things lie.
        key: The key they belong to.
        why: What is wrong with them, for people.
        files: Each with the stamp that it had when it was judged; the manifest, if it is among them, first.
        now: Unix time.

    Returns:
        The folder.

    Raises:
        ChangedError: A file is no longer the one that was judged; nothing was moved.
        OSError: They can't be moved.

    Not guaranteed: that nobody replaces a file between the last look and the move. The caller holds the key's lock,
    and everybody who publishes does.
    """
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    folder = layout.quarantine / f"{when}-{key[:16]}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        note = {"key": key, "why": why, "when": now, "files": [path.name for path, _ in files]}
        write_durably(folder / _NOTE, json.dumps(note, indent=1).encode() + b"\n", 0o600)
        _recheck(files)
        first, *others = (path for path, _ in files)
        first.rename(folder / first.name)
    except BaseException:
        remove_tree(folder)
        raise
    for path in others:
        with contextlib.suppress(OSError):
            path.rename(folder / path.name)
    # What was moved is out of reach at once; after a crash it may be back, and is found damaged again.
    with contextlib.suppress(OSError):
        sync_folder(layout.library)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """One damaged entry that was set aside.

    Attributes:
        name: Of its folder in the quarantine.
        path: The folder.
        key: 64 hex digits; empty where its note is gone.
        why: What was wrong with it.
        when: Unix time.
        size: Bytes of its files.
        files: Their names.
    """

    name: str
    path: str
    key: str
    why: str
    when: float
    size: int
    files: tuple[str, ...]


class _Note(msgspec.Struct):
    key: str = ""
    why: str = ""
    when: float = 0.0


def listing(layout: Layout) -> list[Aside]:
    """What was set aside, newest first; what is no folder of ours is left out."""
    found = []
    try:
        folders = sorted((path for path in layout.quarantine.iterdir() if _FOLDER.fullmatch(path.name)), reverse=True)
    except OSError:
        return []
    for folder in folders:
        with contextlib.suppress(OSError):
            found.append(_aside(folder))
    return found


def _aside(folder: Path) -> Aside:
    files = {path.name: path.lstat().st_size for path in folder.iterdir() if path.name != _NOTE}
    note = _Note()
    try:
        note = msgspec.json.decode(read(folder / _NOTE, _NOTE_BYTES)[0], type=_Note)
    except (OSError, DamagedError, ForeignError, ChangedError, msgspec.MsgspecError, UnicodeDecodeError):
        note = _Note(why="its note can't be read", when=folder.lstat().st_mtime)
    return Aside(
        name=folder.name,
        path=str(folder),
        key=note.key,
        why=note.why,
        when=note.when,
        size=sum(files.values()),
        files=tuple(sorted(files)),
    )


def _recheck(files: tuple[tuple[Path, Stamp], ...]) -> None:
    if not all(still(path, stamp) for path, stamp in files):
        raise ChangedError


def still(path: Path, stamp: Stamp) -> bool:
    """Whether the path leads to the file, as it was, that had this stamp."""
    try:
        return stamp_of(os.lstat(path)) == stamp
    except FileNotFoundError:
        return False


def prune(layout: Layout, *, now: float, keep: int = KEEP, most: int = KEEP_BYTES) -> int:
    """Remove the oldest beyond a number, a size in bytes and an age; returns how many went."""
    count = size = 0
    for number, folder in enumerate(sorted(layout.quarantine.iterdir(), reverse=True)):
        size += _bytes(folder)
        try:
            old = now - folder.lstat().st_mtime > KEEP_SECONDS
        except OSError:
            continue
        if number >= keep or size > most or old:
            count += remove_tree(folder)
    return count


def _bytes(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.iterdir())
    except OSError:
        return 0
