"""``mlc-jit log KEY``: what the compiler said, while it runs and afterwards, with a daemon or without one.

Logs are files in the cache home, and whether a key is being compiled is told by its lock, which the kernel releases.
Only for what waits in a queue must a daemon be asked.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from mlc_jit import messages as m
from mlc_jit.cli.asking import answer
from mlc_jit.errors import DaemonError, RequestError
from mlc_jit.held import is_held
from mlc_jit.locations import locate

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

LOGS, LOCKS = "model_lib/.logs", "model_lib/.locks"
LOOK_SECONDS = 0.2
ASK_SECONDS = 1.0
TAIL = 64 << 10
"""Bytes of a log's end that are shown where it could not be followed to there."""

MARK = 64
"""Bytes at both ends of what was copied that tell whether a log is still the same."""

TIDIED = 256
"""Bytes by which a log may shrink when its end is put in order."""

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
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-f", "--follow", action="store_true", help="go on until the compile has ended")
    how.add_argument("--path", action="store_true", help="print the log's path instead")
    how.add_argument("--json", action="store_true", help="print key, path and text as JSON")
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
        with path.open("rb") as file:
            if arguments.json:
                text = file.read().decode("utf-8", "replace")
                print(json.dumps({"key": key, "path": os.fspath(path), "text": text}, indent=1))
            else:
                _copy_rest(file)
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
        hosts = " Logs of the host's daemon are for its administrators, in its own home." if locate().system else ""
        raise RequestError(
            f"There is no compiler log of a key that begins with {prefix!r}, and nothing with such a key is compiled.",
            remedy="`mlc-jit list` and `mlc-jit status` show keys; the logs of the last 256 compiles are kept." + hosts,
        )
    some = ", ".join(sorted(keys)[:5])
    raise RequestError(f"{len(keys)} keys begin with {prefix!r}: {some[:400]}.", remedy="Give more of the key.")


def _not_begun(key: str) -> RequestError:
    return RequestError(f"The compile of {key[:12]} has not begun, so it has no log.", remedy="Wait for it with -f.")


def _follow(home: Path, key: str, path: Path) -> None:
    """Copy the log as it grows, until nobody compiles the key."""
    growing = Growing(path)
    asked, queued = -ASK_SECONDS, True
    while True:
        if time.monotonic() - asked >= ASK_SECONDS:
            asked, queued = time.monotonic(), key in _jobs()
        goes_on = queued or is_held(home / LOCKS / key)  # before the file is read, so that its end is not missed
        if not growing.look() and not goes_on:
            raise _not_begun(key)
        if not goes_on:
            break
        time.sleep(LOOK_SECONDS)
    growing.end()


class Growing:
    """A log that is being written, copied to standard output as far as it only grows.

    From its limit on, a log keeps its first part and writes the rest round and round; at the end that is put in order.
    So from there on nothing is copied, which is said, and the end of the log is shown when it is over. A log that is
    written anew, for the next compile of the key, is copied from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = self._changed = 0
        self._first = self._last = b""
        self._round = False

    def look(self) -> bool:
        """Copy what is new; whether there is a log."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            about = os.fstat(file.fileno())
            if about.st_ino != self._inode or self._is_new(file, about.st_size):
                self._at, self._round, self._inode = 0, False, about.st_ino
            elif not self._round and self._goes_round(file, about):
                self._round = True
                size = f"{self._at / 1e6:.1f} MB"
                _say(f"the log has reached its limit ({size}); its end is shown when the compile has ended")
            if not self._round:
                self._copy(file)
        return True

    def end(self) -> None:
        """The compile is over: show the end of a log that was not copied to it."""
        if self._round:
            _say(f"the end of {self._path}:")
            with self._path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                file.readline()  # the rest of a line
                _copy_rest(file)

    def _is_new(self, file: BinaryIO, size: int) -> bool:
        return size < self._at - TIDIED or _read(file, 0, len(self._first)) != self._first

    def _goes_round(self, file: BinaryIO, about: os.stat_result) -> bool:
        if about.st_size == self._at and about.st_mtime_ns != self._changed and self._at:
            return True  # written to, and no longer for it
        return _read(file, self._at - len(self._last), len(self._last)) != self._last

    def _copy(self, file: BinaryIO) -> None:
        file.seek(self._at)
        while True:
            self._at = _copy_rest(file)
            about = os.fstat(file.fileno())
            if about.st_size <= self._at:
                break
        self._changed = about.st_mtime_ns
        self._first = _read(file, 0, min(MARK, self._at))
        self._last = _read(file, max(0, self._at - MARK), min(MARK, self._at))


def _copy_rest(file: BinaryIO) -> int:
    """Copy a file from where it is to standard output; the offset of its end."""
    sys.stdout.flush()
    while chunk := file.read(_CHUNK):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return file.tell()


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    return os.pread(file.fileno(), count, at)


def _say(text: str) -> None:
    print(f"mlc-jit: {text}", file=sys.stderr, flush=True)


def _jobs() -> list[str]:
    """The keys that a running daemon compiles or has queued."""
    try:
        return [job.key for job in answer(lambda id_: m.StatusRequest(id=id_), m.Status).jobs]
    except DaemonError:
        return []
