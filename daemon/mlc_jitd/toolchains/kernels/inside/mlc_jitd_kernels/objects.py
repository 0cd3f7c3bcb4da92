"""The file of one kernel: an object file, and before it what it is and the digest that proves it whole.

::

    mlc-jitd kernel 1
    {"key": …, "sha256": …, "size": …, "symbols": […], "seconds": …}
    the object's bytes

The daemon imports this module too. What does not belong here: where such files lie, and when one goes.
"""

# ruff: noqa: PTH104, PTH108, PTH123 - plain calls: this is read in a process that is forked
from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass

MAGIC = b"mlc-jitd kernel 1\n"
LONGEST_HEADER = 1 << 20
MOST_BYTES = 1 << 30
LONGEST_SECONDS = 30 * 86400.0
NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EACCES)
"""What opening says of a thing that is no kernel; anything else (no descriptors, a bad disk) says nothing of it."""
NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
"""What a kernel's key, and so its file, is called."""


class DamagedKernelError(ValueError):
    """The file is not the kernel that its name promises; the text says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One object file.

    Attributes:
        key: 64 hex digits.
        symbols: The functions that it implements.
        seconds: What compiling it took, on one core.
        data: The object's bytes.
    """

    key: str
    symbols: tuple[str, ...]
    seconds: float
    data: bytes


def encode(kernel: Kernel) -> bytes:
    """The kernel's file."""
    facts = {
        "key": kernel.key,
        "sha256": hashlib.sha256(kernel.data).hexdigest(),
        "size": len(kernel.data),
        "symbols": kernel.symbols,
        "seconds": round(kernel.seconds, 3),
    }
    return MAGIC + json.dumps(facts, separators=(",", ":")).encode("ascii") + b"\n" + kernel.data


def write(path: str, kernel: Kernel) -> None:
    """Write a kernel's file; it appears whole or not at all, as far as processes go.

    Raises:
        OSError: No room, or no leave to write.

    Not guaranteed: that it survives a loss of power. Its digest tells.
    """
    part = f"{path}.{os.getpid()}"
    try:
        with open(part, "xb") as file:
            file.write(encode(kernel))
        os.rename(part, path)
    except BaseException:
        if os.path.lexists(part):
            os.unlink(part)
        raise


def read(path: str, key: str, wanted: tuple[str, ...] | None = None) -> Kernel:
    """The kernel in a file, verified.

    Args:
        path: The file.
        key: Whose it must be.
        wanted: The symbols that it must have, if they are known.

    Raises:
        FileNotFoundError: There is none.
        DamagedKernelError: It is cut off, changed, another's, or somebody else may write to it.
        OSError: It can't be read; it says nothing of the file.
    """
    payload = _bytes(path)
    if not payload.startswith(MAGIC):
        raise DamagedKernelError("it does not begin like a kernel")
    end = payload.find(b"\n", len(MAGIC), len(MAGIC) + LONGEST_HEADER)
    try:
        facts = json.loads(payload[len(MAGIC) : end])
        symbols, seconds, digest = tuple(facts["symbols"]), float(facts["seconds"]), facts["sha256"]
        found, size = facts["key"], facts["size"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedKernelError(f"its header can't be read: {type(error).__name__}") from error
    data = payload[end + 1 :]
    if found != key:
        raise DamagedKernelError("it is another kernel")
    if not all(isinstance(name, str) for name in symbols) or not 0 <= seconds <= LONGEST_SECONDS:
        raise DamagedKernelError("its header means nothing")
    if wanted is not None and symbols != wanted:
        raise DamagedKernelError("it has other functions")
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise DamagedKernelError(f"{len(data)} bytes are not the {size} that were written")
    return Kernel(key, symbols, seconds, data)


def _bytes(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in NO_FILE:
            raise DamagedKernelError(f"it can't be opened: {error.strerror}") from error
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedKernelError("it is no regular file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise DamagedKernelError("somebody else may write to it")
        if found.st_size > MOST_BYTES:
            raise DamagedKernelError(f"{found.st_size} bytes are too many")
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)
