"""An operating system's refusal as one of the store's errors: what happened, to what, what to do. Nothing else."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from mlc_jit.errors import StoreError, StoreFullError, StoreUnwritableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

NO_LOCKS_REMEDY = "Set MLC_LLM_HOME to a folder on a local disk, and add this one to MLC_JITD_LAYERS to read it."

_MIB = 1 << 20


@contextlib.contextmanager
def translated(what: str, path: Path, *, key: str = "") -> Iterator[None]:
    """Let an ``OSError`` of the body out as a ``StoreError``.

    Args:
        what: What was being done, as the middle of a sentence: ``publish the library``.
        path: The folder that it was done in.
        key: The cache key, where there is one.

    Raises:
        StoreFullError: ENOSPC, EDQUOT.
        StoreUnwritableError: EROFS, EACCES, EPERM.
        StoreError: Any other ``OSError``; ``reason`` is ``no-locks`` where the file system can't lock.
    """
    try:
        yield
    except OSError as error:
        raise store_error(error, what, path, key=key) from error
    except NotImplementedError as error:  # so filelock says ENOSYS
        missing = OSError(errno.ENOSYS, "this file system has no flock")
        raise store_error(missing, what, path, key=key) from error


def store_error(error: OSError, what: str, path: Path, *, key: str = "") -> StoreError:
    """The store's error for a refusal; see ``translated``."""
    message = f"Can't {what} in {path}: {error.strerror or error}."
    if error.errno in FULL:
        reason = "quota" if error.errno == errno.EDQUOT else "full"
        return StoreFullError(message, remedy=_make_room(path), reason=reason, key=key)
    if error.errno == errno.EROFS:
        return StoreUnwritableError(message, remedy=_elsewhere("mounted read-only"), reason="read-only", key=key)
    if error.errno in UNWRITABLE:
        return StoreUnwritableError(message, remedy=_elsewhere("not writable for you"), reason="denied", key=key)
    if error.errno in NO_LOCKS:
        return StoreError(message, remedy=NO_LOCKS_REMEDY, reason="no-locks", key=key)
    return StoreError(message, reason=errno.errorcode.get(error.errno or 0, "unknown").lower(), key=key)


def too_little_room(path: Path, *, free: int, need: int, reserve: int, promised: int, key: str) -> StoreFullError:
    """The error for a build that would not fit; all figures in bytes."""
    figures = f"{_mib(free)} free, {_mib(need)} needed, {_mib(reserve)} kept in reserve"
    if promised:
        figures += f", {_mib(promised)} promised to builds that are running"
    return StoreFullError(
        f"Not enough room for a library in {path}: {figures}.", remedy=_make_room(path), reason="full", key=key
    )


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


def _make_room(path: Path) -> str:
    return f"Free space on the file system of {path}, or set MLC_LLM_HOME to a folder on a larger one."


def _elsewhere(why: str) -> str:
    return f"The folder is {why}: entries in it are still served; to add some, set MLC_LLM_HOME to a writable folder."
