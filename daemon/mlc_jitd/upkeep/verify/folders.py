"""The folders that entries lie in: who may write them, and what was left behind there. Reads modes and names."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mlc_jitd.store import key_of_artifact, key_of_manifest
from mlc_jitd.store.access import distrust
from mlc_jitd.store.staging import abandoned
from mlc_jitd.upkeep.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlc_jitd.store import Layout


def troubles(layout: Layout) -> Iterator[Finding]:
    """Folders that others may write, with the command that closes each."""
    for path in (layout.home, layout.library, layout.locks, layout.staging, layout.quarantine):
        try:
            status = path.stat(follow_symlinks=path in (layout.home, layout.library))
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield Finding(
                kind="unsafe", level="problem", found=f"{path} is not a folder", remedy="Move it away.", path=str(path)
            )
            continue
        if path == layout.home and status.st_mode & stat.S_ISVTX:
            continue  # as /tmp: others can add names, and not change ours
        doubt = distrust(status, path)
        if doubt:
            yield Finding(
                kind="unsafe",
                level="note" if path == layout.home else "problem",
                found=f"{doubt[0]}, so others could swap libraries in it",
                remedy=doubt[1],
                path=str(path),
            )


def leftovers(layout: Layout, *, repaired: bool) -> Iterator[Finding]:
    """What takes room and does no harm.

    Args:
        layout: Where things lie.
        repaired: The home was just swept; what is left is younger than the sweep's grace.
    """
    staging = abandoned(layout.staging)
    if staging:
        yield _left(layout.staging, f"{_count(len(staging), 'build')} that ended early", repaired=repaired)
    names = _names(layout.library)
    entries = {key for key in map(key_of_manifest, names) if key}
    orphans = [name for name in names if (key := key_of_artifact(name)) and key not in entries]
    if orphans:
        found = f"{_count(len(orphans), 'artifact')} without a manifest, {_size(layout.library, orphans)}"
        yield _left(layout.library, found, repaired=repaired)
    damaged = _names(layout.quarantine)
    if damaged:
        yield Finding(
            kind="leftover",
            level="note",
            found=f"{_count(len(damaged), 'damaged entry', 'damaged entries')} set aside in {layout.quarantine}",
            remedy="`mlc-jit quarantine` says why; `mlc-jit quarantine --clear` removes them.",
            path=str(layout.quarantine),
        )


def _left(path: Path, found: str, *, repaired: bool) -> Finding:
    remedy = "They go an hour after they were left, at the next start of a daemon or `mlc-jit verify --repair`."
    if repaired:
        remedy = "They are younger than an hour: somebody may still be at them."
    return Finding(kind="leftover", level="note", found=found, remedy=remedy, path=str(path))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _size(folder: Path, names: list[str]) -> str:
    total = 0
    for name in names:
        try:
            total += os.lstat(folder / name).st_size
        except OSError:
            continue
    return f"{total / 1e6:.1f} MB"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
