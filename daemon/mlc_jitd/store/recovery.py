"""Undoes what a crash left of collections: a manifest that was taken away comes back while its artifact is there."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, read
from mlc_jitd.store.layout import key_of_gone
from mlc_jitd.store.manifest import MAX_MANIFEST_BYTES, ManifestInvalidError, ManifestNewerError, decode

if TYPE_CHECKING:
    from mlc_jitd.store.layout import Layout
    from mlc_jitd.store.locks import KeyLocks

logger = logging.getLogger(__name__)


def put_all_back(layout: Layout, locks: KeyLocks) -> None:
    """Put back what no collector is at work on."""
    for name in os.listdir(layout.library):  # noqa: PTH208 - twenty thousand of them
        key = key_of_gone(name)
        if key is not None:
            put_back(layout, locks, key, timeout=0)


def put_back(layout: Layout, locks: KeyLocks, key: str, *, timeout: float) -> bool:
    """Wait for the collector that has taken a manifest away, if one lives; else put it back or remove it.

    Args:
        layout: Where things lie.
        locks: The locks of this home.
        key: 64 hex digits.
        timeout: Seconds to wait for the key's lock.

    Returns:
        Whether the key has a manifest now.
    """
    lock = locks.lock(key)
    if not lock.acquire(timeout, poll=0.01):
        return False
    try:
        gone, manifest = layout.gone(key), layout.manifest(key)
        try:
            if os.path.lexists(manifest) or _names_nothing(layout, key):
                gone.unlink()
            else:
                gone.rename(manifest)
        except FileNotFoundError:
            pass  # the collector came to its end
        except OSError as error:
            logger.warning("%s can't be put back: %s", gone, error)
        return os.path.lexists(manifest)
    finally:
        lock.release()


def _names_nothing(layout: Layout, key: str) -> bool:
    """Whether a manifest is damaged or its artifact is gone; what this version can't judge goes back as it is."""
    try:
        manifest = decode(read(layout.gone(key), MAX_MANIFEST_BYTES)[0], key)
    except (ForeignError, ChangedError, ManifestNewerError):
        return False
    except (DamagedError, ManifestInvalidError):
        return True
    return not os.path.lexists(layout.library / manifest.artifact)
