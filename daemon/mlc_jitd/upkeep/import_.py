"""Take entries into the cache from files that `mlc-jit export` wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import RequestError
from mlc_jit.locations import made_home
from mlc_jitd.lending import leases_here
from mlc_jitd.store import About, Found, Store, archive
from mlc_jitd.store.trouble import translated
from mlc_jitd.upkeep.verify.entries import contradiction

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.store import Manifest
    from mlc_jitd.upkeep import Tell

LOCK_SECONDS = 5.0
"""How long a key is waited for that somebody compiles: what he makes is as good."""

_ABOUT = [each.name for each in dataclasses.fields(About)]


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", nargs="+", help="files that `mlc-jit export` wrote")


def run(arguments: argparse.Namespace, tell: Tell) -> Any:
    """Do it; what one file has before a damage stays.

    Raises:
        RequestError: A file is no export, or a damaged one.
        StoreError: The cache can't take it.
    """
    store = Store(made_home(), leased=leases_here().held)
    store.open()
    store.require_writable()
    return [{"file": each, **_take(store, Path(each), tell)} for each in arguments.files]


def _take(store: Store, path: Path, tell: Tell) -> dict[str, list[str]]:
    done: dict[str, list[str]] = {"imported": [], "there": [], "busy": []}
    try:
        with path.open("rb") as file:
            for packed in archive.read(file):
                _check(packed.manifest)
                done[_publish(store, packed)].append(packed.manifest.key)
                tell({"imported": len(done["imported"]), "there": len(done["there"])})
    except archive.ArchiveError as error:
        taken = len(done["imported"])
        raise RequestError(
            f"{path} can't be imported: {error}." + (f" {taken} entries before that were." if taken else ""),
            remedy="Export it again, or copy it again: its table of contents has every digest.",
            reason="damaged",
        ) from error
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror or error}.", reason="unreadable") from error
    return done


def _check(manifest: Manifest) -> None:
    wrong = contradiction(manifest)
    if wrong:
        raise archive.ArchiveError(f"{manifest.key[:12]}: {wrong}")


def _publish(store: Store, packed: archive.Packed) -> str:
    manifest = packed.manifest
    if isinstance(store.find(manifest.key), Found):
        packed.copy(None)
        return "there"
    lock = store.lock(manifest.key)
    if not lock.acquire(LOCK_SECONDS):
        packed.copy(None)
        return "busy"
    try:
        if isinstance(store.find(manifest.key), Found):
            packed.copy(None)
            return "there"
        with store.staging(manifest.key, need=manifest.size) as folder:
            staged = folder / "lib"
            with translated("write a library", folder, key=manifest.key), staged.open("wb") as file:
                packed.copy(file)
            store.publish(manifest.key, staged, _about(manifest))
    finally:
        lock.release()
    return "imported"


def _about(manifest: Manifest) -> About:
    return About(**{name: getattr(manifest, name) for name in _ABOUT})
