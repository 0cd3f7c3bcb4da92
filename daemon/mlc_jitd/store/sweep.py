"""What a crash can leave in a home, removed at the next start. Entries and names of others are never touched."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError
from mlc_jitd.store import quarantine
from mlc_jitd.store.layout import key_of_artifact
from mlc_jitd.store.recovery import put_all_back

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from mlc_jitd.store.layout import Layout
    from mlc_jitd.store.locks import KeyLocks
    from mlc_jitd.store.staging import Staging

logger = logging.getLogger(__name__)

GRACE_SECONDS = 3600.0
"""How old an artifact without a manifest must be: longer than any publish, and than anybody waits to load a library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What ``Store.open`` found.

    Attributes:
        writable: Whether entries can be added.
        staging: Builds of ended processes that were removed.
        artifacts: Artifacts without a manifest that were removed.
        bytes: What those artifacts took.
        quarantined: Old damaged entries that were removed.
        warnings: For people: what works and should be put right all the same.
    """

    writable: bool
    staging: int = 0
    artifacts: int = 0
    bytes: int = 0
    quarantined: int = 0
    warnings: tuple[str, ...] = ()


def sweep(
    layout: Layout,
    locks: KeyLocks,
    staging: Staging,
    *,
    now: float,
    grace: float,
    leased: Callable[[], Container[str]],
    warnings: tuple[str, ...],
) -> SweepReport:
    """Remove leftovers.

    Args:
        layout: Where things lie; the folders exist and can be written.
        locks: The locks of this home: what is locked is in use.
        staging: The staging folders of this home.
        now: Unix time.
        grace: Seconds for which an artifact without a manifest is left alone.
        leased: The artifacts that are in use.
        warnings: Go into the report.

    Raises:
        OSError: A folder can't be listed. What can't be removed stays for the next sweep.
    """
    put_all_back(layout, locks)
    names = set(os.listdir(layout.library))  # noqa: PTH208 - twenty thousand of them
    orphans = sorted(name for name in names if name[64:65] == "-" and f"{name[:64]}.json" not in names)
    held: Container[str] = frozenset()
    try:
        held = leased() if orphans else held
    except StoreError as error:
        logger.warning("artifacts without a manifest stay: %s", error.message)
        orphans = []
    artifacts = size = 0
    for name in orphans:
        key = key_of_artifact(name)
        if key is None or name in held or not _old_orphan(layout, key, name, now - grace):
            continue
        taken = _remove_orphan(layout, locks, key, name, now - grace)
        artifacts += taken > 0
        size += taken
    return SweepReport(
        writable=True,
        staging=staging.sweep(),
        artifacts=artifacts,
        bytes=size,
        quarantined=quarantine.prune(layout, now=now),
        warnings=warnings,
    )


def _old_orphan(layout: Layout, key: str, name: str, before: float) -> bool:
    if os.path.lexists(layout.manifest(key)):
        return False  # an entry's older artifact may be in use: that is for the collector, which knows the leases
    try:
        status = os.lstat(layout.library / name)
    except FileNotFoundError:
        return False
    # The ctime is when it was renamed into place, or copied here with an old mtime.
    return stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) < before


def _remove_orphan(layout: Layout, locks: KeyLocks, key: str, name: str, before: float) -> int:
    lock = locks.lock(key)
    if not lock.acquire(0):
        return 0
    try:
        path = layout.library / name
        if not _old_orphan(layout, key, name, before):
            return 0
        size = path.stat().st_size
        with contextlib.suppress(OSError):
            path.unlink()
            return size
        return 0
    finally:
        lock.release()
