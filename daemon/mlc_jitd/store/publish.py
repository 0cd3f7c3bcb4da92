"""One library made visible: content to the disk, its own name, then the manifest. No step harms the old entry."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit._version import __version__
from mlc_jit.errors import StoreError
from mlc_jitd.store.files import (
    ChangedError,
    DamagedError,
    ForeignError,
    Stamp,
    digest,
    opened,
    stamp_of,
    sync_folder,
    write_durably,
)
from mlc_jitd.store.layout import check_suffix
from mlc_jitd.store.manifest import Manifest, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mlc_jitd.store.layout import Layout
    from mlc_jitd.store.manifest import About

_SEALED = 0o444
"""Nobody writes an artifact again, by mistake either."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was committed; ``identical`` when the artifact was there before."""

    manifest: Manifest
    artifact_stamp: Stamp
    manifest_stamp: Stamp
    identical: bool


def publish(
    layout: Layout,
    key: str,
    staged: Path,
    about: About,
    *,
    now: float,
    commit: AbstractContextManager[object],
    damaged: Callable[[str, str, tuple[tuple[Path, Stamp], ...]], object],
) -> Published:
    """Publish a staged library; see ``Store.publish``, whose checks came before.

    Args:
        layout: Where things lie.
        key: Its lock is held.
        staged: The library.
        about: What the manifest will say.
        now: Unix time.
        commit: Held around the rename of the manifest.
        damaged: Moves a damaged artifact of the same name away.

    Raises:
        ValueError: A bad suffix, or ``staged`` is in no staging folder.
        StoreError: ``staged`` is nothing that can be published.
        OSError: The file system refused; nothing is visible then.
    """
    check_suffix(about.suffix)
    if staged.absolute().parent.parent != layout.staging:
        raise ValueError(f"{staged} is in no staging folder of {layout.staging}")
    sha256, size = _seal(_own(staged, key), key)
    manifest = Manifest.describe(about, key=key, sha256=sha256, size=size, created=now, version=__version__)
    # Made before the artifact shows: the last thing that can want space.
    draft = staged.with_name(f".{key}.json")
    write_durably(draft, encode(manifest), 0o644)
    artifact = layout.library / manifest.artifact
    identical = _is_there(artifact, sha256, key, damaged)
    if not identical:
        staged.rename(artifact)
    try:
        sync_folder(layout.library)
        artifact_stamp = stamp_of(os.lstat(artifact))
        with commit:
            draft.rename(layout.manifest(key))
            manifest_stamp = stamp_of(os.lstat(layout.manifest(key)))
    except OSError:
        # With an entry there, the file may be its own: one whose artifact was damaged or missing.
        if not identical and not os.path.lexists(layout.manifest(key)):
            with contextlib.suppress(OSError):
                artifact.unlink()
        raise
    sync_folder(layout.library)
    return Published(manifest, artifact_stamp, manifest_stamp, identical)


def _own(staged: Path, key: str) -> Path:
    """See to it that the file has one name: through another one, somebody could write to the artifact."""
    try:
        status = os.lstat(staged)
    except FileNotFoundError as error:
        raise StoreError(f"There is no library at {staged}.", reason="no-library", key=key) from error
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{staged} is no regular file.", reason="no-library", key=key)
    if status.st_nlink > 1:
        copy = staged.with_name(f".{staged.name}.copy")
        shutil.copyfile(staged, copy)
        copy.rename(staged)
    return staged


def _seal(staged: Path, key: str) -> tuple[str, int]:
    """Digest and size of the file, read-only and on the disk from now on."""
    try:
        staged.chmod(_SEALED)
        with opened(staged) as (fd, status):
            if status.st_size == 0:
                raise StoreError(f"The library at {staged} is empty.", reason="no-library", key=key)
            os.fsync(fd)
            sha256, stamp = digest(fd, staged)
    except (DamagedError, ForeignError, ChangedError) as error:
        why = f"{staged} is still being written" if isinstance(error, ChangedError) else str(error)
        raise StoreError(f"The library can't be published: {why}.", reason="no-library", key=key) from error
    return sha256, stamp[2]


def _is_there(
    artifact: Path, sha256: str, key: str, damaged: Callable[[str, str, tuple[tuple[Path, Stamp], ...]], object]
) -> bool:
    """Whether the artifact is there already, and whole. Else it is moved away, not written: it may be mapped."""
    try:
        stamp = stamp_of(os.lstat(artifact))
    except FileNotFoundError:
        return False
    try:
        with opened(artifact) as (fd, _):
            if digest(fd, artifact)[0] == sha256:
                return True
        why = f"{artifact} does not have the content that its name says"
    except (DamagedError, ForeignError) as error:
        why = str(error)
    except ChangedError:
        why = f"{artifact} is being written to"
        stamp = stamp_of(os.lstat(artifact))
    try:
        damaged(key, why, ((artifact, stamp),))
    except ChangedError as error:
        raise StoreError(f"{artifact} changes while it is looked at.", reason="restless", key=key) from error
    return False
