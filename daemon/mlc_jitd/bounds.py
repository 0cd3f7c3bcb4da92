"""The settings of a cache's size as the collector's rules for one home, and the parts of a collector for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jitd.store.collection import DAY, Rules
from mlc_jitd.store.filesystem import file_system, is_network

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jitd.config import Settings

SHARED_GRACE_SECONDS = 7 * DAY
"""The least grace where other hosts may use the cache, whose leases can't be seen."""


def rules_of(settings: Settings, library: Path) -> Rules:
    """What the cache in a folder may take.

    Args:
        settings: 0 there is no limit.
        library: ``model_lib``; on a file system that hosts share, the grace is longer.
    """
    shared = is_network(file_system(library))
    return Rules(
        max_size=settings.max_size or None,
        min_free=settings.min_free or None,
        max_age=settings.max_age_days * DAY or None,
        stale_age=settings.stale_days * DAY or None,
        grace=max(settings.grace_seconds, SHARED_GRACE_SECONDS if shared else 0.0),
    )
