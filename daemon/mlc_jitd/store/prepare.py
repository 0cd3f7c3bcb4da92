"""The folders of a home: made where they are missing, refused where others could write them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError, StoreUnwritableError
from mlc_jitd.store.access import distrust
from mlc_jitd.store.filesystem import can_not_execute, file_system, is_network, why_no_locks
from mlc_jitd.store.trouble import NO_LOCKS_REMEDY, store_error, translated

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jitd.store.layout import Layout

_WHAT = "keep libraries"


def refuse_unsafe(layout: Layout) -> tuple[str, ...]:
    """Refuse folders in which others could plant or swap a library.

    Returns:
        Warnings. The home itself gets no more than one: volumes that a container platform mounts are commonly open to
        their group or to all, nobody in the container can change that, and upstream works there.

    Raises:
        StoreUnwritableError: ``model_lib`` or a folder of ours in it is open to others; it names the path and the
            command to run.
        StoreError: One of them can't be looked at.
    """
    for path in (layout.library, layout.locks, layout.staging, layout.quarantine):
        status = _status(path, follow=path == layout.library)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise StoreUnwritableError(
                f"{path} is not a folder.", remedy=f"Move it away, or set MLC_LLM_HOME: {path}", reason="no-folder"
            )
        doubt = distrust(status, path)
        if doubt:
            raise StoreUnwritableError(
                f"{doubt[0]}: libraries in it could be swapped by others.", remedy=f"{doubt[1]}", reason="unsafe"
            )
    status = _status(layout.home, follow=True)
    if status is None or (status.st_mode & stat.S_ISVTX):
        return ()
    doubt = distrust(status, layout.home)
    return (f"{doubt[0]}, so others could swap the cache in it. {doubt[1]}",) if doubt else ()


def odd_file_system(layout: Layout) -> str:
    """What to know of the file system that the home lies on, for people; its folders are there and can be written."""
    kind = file_system(layout.library)
    if can_not_execute(layout.library):
        return (
            f"{layout.home} is mounted noexec: no process can load a library from it. Mount it without noexec, or set "
            "MLC_LLM_HOME to a folder on another file system."
        )
    if not is_network(kind):
        return ""
    try:
        why = why_no_locks(layout.locks)
    except OSError as error:
        why = str(error)
    if why:
        return (
            f"{layout.home} is on {kind}, and its locks do not work ({why}): one configuration may be compiled twice "
            f"at a time. {NO_LOCKS_REMEDY}"
        )
    return (
        f"{layout.home} is on {kind}: key locks work there, so one host at a time compiles a configuration; libraries "
        "load over the network. The socket, the daemon's lock and the leases are in the runtime folder, on this host."
    )


def make_folders(layout: Layout) -> StoreError | None:
    """Make what is missing; returns why entries can't be added, or ``None`` when they can."""
    try:
        layout.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        layout.library.mkdir(mode=0o755, exist_ok=True)
        for path in (layout.locks, layout.staging, layout.quarantine):
            path.mkdir(mode=0o700, exist_ok=True)
        for path in (layout.library, layout.locks, layout.staging, layout.quarantine):
            _probe(path)
    except OSError as error:
        return store_error(error, _WHAT, layout.library)
    return None


def _probe(path: Path) -> None:
    effective = os.access in os.supports_effective_ids
    if os.access(path, os.W_OK | os.X_OK, effective_ids=effective):
        return
    read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    number = errno.EROFS if read_only else errno.EACCES
    raise OSError(number, os.strerror(number), str(path))


def _status(path: Path, *, follow: bool) -> os.stat_result | None:
    with translated(_WHAT, path):
        try:
            return path.stat(follow_symlinks=follow)
        except FileNotFoundError:
            return None
