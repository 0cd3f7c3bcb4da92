"""What lies in a home, as candidates for a collection. Reads a manifest only where it must."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jitd.store.access import ROOT
from mlc_jitd.store.collection import Candidate, Kind
from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, read
from mlc_jitd.store.layout import key_of_artifact, key_of_manifest
from mlc_jitd.store.manifest import MAX_MANIFEST_BYTES, Manifest, ManifestInvalidError, ManifestNewerError, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlc_jitd.store.layout import Layout

BREATHS = 256
"""Files that are looked at between two chances for others."""

UNREADABLE = (
    DamagedError, ForeignError, ChangedError, ManifestInvalidError, ManifestNewerError, OSError,
)  # fmt: skip


@dataclass(slots=True)
class Inventory:
    """What there is.

    Attributes:
        candidates: One for each artifact.
        keys: Those that have a manifest.
        puzzling: By artifact: why it must not be taken, as part of a sentence.
    """

    candidates: list[Candidate] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    puzzling: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    time: float
    mine: bool


def take(
    layout: Layout, used: Mapping[str, float], copies: Mapping[str, int], breathe: Callable[[], None]
) -> Inventory:
    """Look at every artifact and manifest.

    Args:
        layout: Where things lie.
        used: Last uses by key.
        copies: What an entry takes under other names, by key, in bytes.
        breathe: Called every now and then.

    Raises:
        OSError: The folder can't be listed.
    """
    found = Inventory()
    manifests: dict[str, float] = {}
    artifacts: dict[str, list[_File]] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.library) as entries:
        for number, entry in enumerate(entries):
            if number % BREATHS == BREATHS - 1:
                breathe()
            of_manifest, of_artifact = key_of_manifest(entry.name), key_of_artifact(entry.name)
            if of_manifest is None and of_artifact is None:
                continue
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                # The ctime is when it was renamed into place, or copied here with an old mtime.
                time = max(about.st_mtime, about.st_ctime)
                if of_manifest is not None:
                    manifests[of_manifest] = time
                elif of_artifact is not None:
                    mine = stat.S_ISREG(about.st_mode) and about.st_uid in (os.geteuid(), ROOT)
                    artifacts.setdefault(of_artifact, []).append(_File(entry.name, about.st_size, time, mine))
    found.keys = set(manifests)
    for key, files in artifacts.items():
        _judge(found, layout, key, files, manifests.get(key), used=used.get(key, 0.0), copies=copies.get(key, 0))
    return found


def _judge(
    found: Inventory,
    layout: Layout,
    key: str,
    files: list[_File],
    manifest: float | None,
    *,
    used: float,
    copies: int,
) -> None:
    current: str | None = files[0].name
    if manifest is not None and len(files) > 1:
        current, doubt = _current(layout, key)
        found.puzzling.update(dict.fromkeys((each.name for each in files), doubt) if doubt else {})
    for each in files:
        kind: Kind = "orphan" if manifest is None else "entry" if each.name == current else "superseded"
        since = each.time if manifest is None else max(each.time, manifest)
        if not each.mine:
            found.puzzling[each.name] = "belongs to another user, or is no regular file"
        size = each.size + copies if kind == "entry" else each.size
        found.candidates.append(Candidate(each.name, key, kind, size, since, max(since, used)))


def _current(layout: Layout, key: str) -> tuple[str | None, str]:
    try:
        return manifest_of(layout, key).artifact, ""
    except UNREADABLE as error:
        return None, f"its manifest can't be read ({error})"


def manifest_of(layout: Layout, key: str) -> Manifest:
    """The key's manifest; raises one of ``UNREADABLE``."""
    return decode(read(layout.manifest(key), MAX_MANIFEST_BYTES)[0], key)
