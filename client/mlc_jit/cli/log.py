"""``mlc-jit log KEY``: what the compiler said, while it runs and afterwards, with a daemon or without one.

Logs are files in the cache home, and whether a key is being compiled is told by its lock, which the kernel releases.
Only for what waits in a queue must a daemon be asked.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.cli.asking import answer
from mlc_jit.errors import DaemonError, RequestError
from mlc_jit.locations import locate

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

LOGS, LOCKS = "model_lib/.logs", "model_lib/.locks"
LOOK_SECONDS = 0.2
ASK_SECONDS = 1.0
TAIL = 64 << 10
_CHUNK = 1 << 16
_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "log",
        help="show the compiler's log of a key",
        description="Show what the compiler said when it compiled a key, or says while it does; no daemon is needed.",
    )
    parser.add_argument("key", help="the key, or the beginning of it, as `mlc-jit list` and `mlc-jit status` show it")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the compile has ended")
    parser.add_argument("--path", action="store_true", help="print the log's path instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    home = locate().home
    key = find(home, arguments.key)
    path = home / LOGS / f"{key}.log"
    if arguments.path:
        print(path)
        return 0
    if arguments.follow:
        _follow(home, key, path)
        return 0
    try:
        _copy(path, 0)
    except FileNotFoundError:
        raise _not_begun(key) from None
    return 0


def find(home: Path, prefix: str) -> str:
    """The one key with a log, or a compile, that begins with the prefix.

    Raises:
        RequestError: None does, or several do, or it is no key's beginning.
    """
    if _PREFIX.fullmatch(prefix) is None:
        raise RequestError(
            f"{prefix[:80]!r} is not the beginning of a key: those are 64 hex digits.",
            remedy="`mlc-jit list` and `mlc-jit status` show keys.",
        )
    keys = {path.stem for path in (home / LOGS).glob(f"{prefix}*.log")} | {
        key for key in _jobs() if key.startswith(prefix)
    }
    if len(keys) == 1:
        return keys.pop()
    if not keys:
        raise RequestError(
            f"There is no compiler log of a key that begins with {prefix!r}, and nothing with such a key is compiled.",
            remedy="`mlc-jit list` and `mlc-jit status` show keys; the logs of the newest 256 compiles are kept.",
        )
    some = ", ".join(sorted(keys)[:5])
    raise RequestError(f"{len(keys)} keys begin with {prefix!r}: {some[:400]}.", remedy="Give more of the key.")


def _not_begun(key: str) -> RequestError:
    return RequestError(f"The compile of {key[:12]} has not begun, so it has no log.", remedy="Wait for it with -f.")


def _follow(home: Path, key: str, path: Path) -> None:
    """Copy the log as it grows, from its beginning again if it is written anew, until nobody compiles the key."""
    seen: tuple[int, int] | None = None
    at, full, asked, queued = 0, False, -ASK_SECONDS, True
    while True:
        if time.monotonic() - asked >= ASK_SECONDS:
            asked, queued = time.monotonic(), key in _jobs()
        goes_on = queued or is_locked(home / LOCKS / key)  # before the file is read, so that its end is not missed
        try:
            about = path.stat()
        except FileNotFoundError:
            if not goes_on:
                raise _not_begun(key) from None
        else:
            if seen is not None and (about.st_ino != seen[0] or about.st_size < at):
                at = 0
            elif seen is not None and about.st_size == at and about.st_mtime_ns != seen[1] and at:
                full = True  # its last part is written round and round
            seen = (about.st_ino, about.st_mtime_ns)
            at = _copy(path, at)
        if not goes_on:
            break
        time.sleep(LOOK_SECONDS)
    if full:
        print(f"mlc-jit: the log outgrew its limit while it was followed; its end, from {path}:", file=sys.stderr)
        _copy(path, max(0, path.stat().st_size - TAIL))


def _copy(path: Path, at: int) -> int:
    """Copy a file from an offset to standard output; the offset of its end."""
    sys.stdout.flush()
    with path.open("rb") as file:
        file.seek(at)
        while chunk := file.read(_CHUNK):
            sys.stdout.buffer.write(chunk)
            at += len(chunk)
    sys.stdout.buffer.flush()
    return at


def is_locked(path: Path) -> bool:
    """Whether somebody compiles or publishes the key of this lock. The kernel knows, whoever it is."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _jobs() -> list[str]:
    """The keys that a running daemon compiles or has queued."""
    try:
        return [job.key for job in answer(lambda id_: m.StatusRequest(id=id_), m.Status).jobs]
    except DaemonError:
        return []
