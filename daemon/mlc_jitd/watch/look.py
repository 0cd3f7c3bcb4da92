"""One look at a model folder: what its config is now, which folders lead to it, and a mark to compare later.

A look never hangs on a FIFO, never reads more than a config may have, and follows links as a client does. It may hang
on a file system whose server is gone, so it is called in a thread that can be left behind (``lane``).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jit.request import CONFIG_NAME, MAX_CONFIG_BYTES
from mlc_jitd.asks import GONE, digest
from mlc_jitd.store.files import stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator

TORN = "torn"
"""What is there is no JSON object: it is being written, or was damaged."""
UNREADABLE = "unreadable"

FRESH_SECONDS = 2.0
"""What was changed so shortly before a look may change again under an equal mark, on the coarsest clocks."""

MOST_LINKS = 40

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})

Mark = tuple[int, ...]
"""Device, inode, size and times of the config, and device and inode of its folder: unequal means, look again."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A folder that an event can come from: it holds a link on the way to the config, or the config itself.

    ``place`` is its device and inode: a folder that was made anew has the same name and no watch.
    """

    folder: str
    name: str
    place: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look found.

    Attributes:
        config: SHA-256 of the config, ``GONE``, ``TORN`` or ``UNREADABLE``.
        payload: The config's bytes, where it has a digest.
        hops: Where events can come from.
        mark: To see that nothing changed; ``None`` where nothing is to be seen.
        fresh: It changed so shortly before that it should be looked at once more.
        trouble: Why it is unreadable.
    """

    config: str
    payload: bytes = field(default=b"", repr=False)
    hops: tuple[Hop, ...] = ()
    mark: Mark | None = None
    fresh: bool = False
    trouble: str = ""


def look(folder: str, last: Look | None, *, thoroughly: bool, now: float) -> Look:
    """Look at a model folder.

    Args:
        folder: Its path.
        last: What the last look found; it is given back where the mark has not changed.
        thoroughly: Read the config whatever the mark says.
        now: Unix time.
    """
    path = os.path.join(folder, CONFIG_NAME)  # noqa: PTH118 - text stays text
    if last is not None and last.mark is not None and not thoroughly and not last.fresh and mark(folder) == last.mark:
        return last
    before = mark(folder)
    hops = tuple(_hops(path))
    try:
        payload = _read(path)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return Look(config=GONE, hops=hops, mark=before)
        return Look(config=UNREADABLE, hops=hops, mark=before, trouble=f"{error.strerror or error}")
    times = before[3:5] if before is not None else ()
    fresh = before != mark(folder) or any(abs(now * 1e9 - each) < FRESH_SECONDS * 1e9 for each in times)
    if not _is_whole(payload):
        return Look(config=TORN, hops=hops, mark=before, fresh=fresh)
    return Look(config=digest(payload), payload=payload, hops=hops, mark=before, fresh=fresh)


def mark(folder: str) -> Mark | None:
    """The folder's mark, two calls of stat; ``None`` where there is no config to be seen."""
    try:
        place = os.stat(folder)  # noqa: PTH116 - often
        config = os.stat(os.path.join(folder, CONFIG_NAME))  # noqa: PTH116, PTH118
    except OSError:
        return None
    return (*stamp_of(config), place.st_dev, place.st_ino)


def _read(path: str) -> bytes:
    fd = os.open(path, _FLAGS)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if about.st_size > MAX_CONFIG_BYTES:
            raise OSError(errno.EFBIG, f"it has {about.st_size} bytes")
        payload = b""
        while len(payload) <= MAX_CONFIG_BYTES and (chunk := os.read(fd, MAX_CONFIG_BYTES + 1 - len(payload))):
            payload += chunk
        return payload
    finally:
        os.close(fd)


def _is_whole(payload: bytes) -> bool:
    try:
        return isinstance(json.loads(payload), dict)
    except (ValueError, RecursionError):
        return False


def _hops(path: str) -> Iterator[Hop]:
    """The folders that hold a link on the way to a path, and the one that holds its end."""
    pending = deque(part for part in path.split("/") if part)
    at = "/"
    name, links = "", 0
    while pending:
        name = pending.popleft()
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120 - links are resolved: the text is the truth
            continue
        here = os.path.join(at, name)  # noqa: PTH118
        try:
            target = os.readlink(here)  # noqa: PTH115
        except OSError:
            if pending:
                at = here
            continue
        links += 1
        if links > MOST_LINKS:
            return
        yield from _hop(at, name)
        at = "/" if target.startswith("/") else at
        pending.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
    yield from _hop(at, name)


def _hop(folder: str, name: str) -> Iterator[Hop]:
    try:
        about = os.stat(folder)  # noqa: PTH116
    except OSError:
        return
    yield Hop(folder, name, (about.st_dev, about.st_ino))
