"""Damaged files, moved out of the way with a note that says why and when. Nothing is ever handed out from here."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

from mlc_jitd.store.files import ChangedError, Stamp, stamp_of, sync_folder, write_durably
from mlc_jitd.store.staging import remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jitd.store.layout import Layout

KEEP = 16
"""How many damaged entries are kept for people to look at; the oldest go first."""


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
        write_durably(folder / "why.json", json.dumps(note, indent=1).encode() + b"\n", 0o600)
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


def _recheck(files: tuple[tuple[Path, Stamp], ...]) -> None:
    if not all(still(path, stamp) for path, stamp in files):
        raise ChangedError


def still(path: Path, stamp: Stamp) -> bool:
    """Whether the path leads to the file, as it was, that had this stamp."""
    try:
        return stamp_of(os.lstat(path)) == stamp
    except FileNotFoundError:
        return False


def prune(layout: Layout, keep: int = KEEP) -> int:
    """Remove all but the newest; returns how many went."""
    folders = sorted(layout.quarantine.iterdir(), reverse=True)
    return sum(map(remove_tree, folders[keep:]))
