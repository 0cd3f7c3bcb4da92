"""The bounded log file: the beginning and the end of what a command printed, never more than its limit on disk.

While it is written the file is `head | ring`; once the ring has gone round, a seam line stands where the newest text
meets the oldest, so that the log of a killed supervisor can still be read. `finish` unrolls the ring in place.
"""

from __future__ import annotations

import os

TAIL = 16 * 1024
"""Bytes at the end that are also kept in memory, for a disk that is full."""

_LARGEST_RING = 8 * 1024 * 1024  # read into memory as a whole by finish()
_MARGIN = 128  # room for the seam, later for the line that says how much was left out


def seam(job: str) -> bytes:
    """The line between the newest and the oldest text of a ring that was never unrolled."""
    return f"\n[… {job}: newest text above, oldest below …]\n".encode()


def _layout(limit: int) -> tuple[int, int]:
    ring = min(limit // 2, _LARGEST_RING) - _MARGIN
    return limit - _MARGIN - ring, ring


def unfinished_tail(content: bytes, limit: int, job: str) -> tuple[bytes, bool]:
    """The newest bytes of a log whose writer was killed, and whether it had begun to leave something out."""
    head, ring = _layout(limit)
    newest, round_, oldest = content[head:].partition(seam(job))
    if not round_:
        return content[-TAIL:], False
    before = oldest[: max(0, ring - len(newest) - len(round_))]
    return (before + newest)[-TAIL:], True


class BoundedLog:
    """Writes bytes as they come. Trouble with the disk is kept in `error`, never raised: a log is a courtesy.

    Args:
        path: The file; an older one is replaced.
        limit: Bytes on disk at any time, at least 4096. The first half (all but 8 MiB of a bigger limit than 16 MiB)
            keeps the beginning, the rest the end.
        job: The name in the seam line.
    """

    def __init__(self, path: str, limit: int, job: str) -> None:
        self.error = ""
        self.tail = b""
        self.left_out = 0
        self._seam = seam(job)
        self._head, self._ring = _layout(limit)
        self._end = 0  # of the head
        self._at = 0  # where the ring's next byte goes
        self._round = False
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._fail(error)

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.tail = data[-TAIL:] if len(data) >= TAIL else (self.tail + data)[-TAIL:]
        if self.error:
            self.left_out += len(data)
            return
        try:
            self._store(data)
        except OSError as error:
            self._fail(error)

    def _store(self, data: bytes) -> None:
        if self._end < self._head:
            part = data[: self._head - self._end]
            self._put(part, self._end)
            self._end += len(part)
            data = data[len(part) :]
        if len(data) > self._ring:  # the ring would be overwritten more than once
            self.left_out += len(data) - self._ring
            data = data[-self._ring :]
        while data:
            part = data[: self._ring - self._at]
            if self._round:
                self.left_out += len(part)
            self._put(part + self._seam if self._round or self.left_out else part, self._head + self._at)
            self._at += len(part)
            data = data[len(part) :]
            if self._at == self._ring:
                self._at = 0
                self._round = True

    def finish(self) -> None:
        """Put the ring in order and close the file."""
        if self._fd < 0:
            return
        try:
            if self._round and not self.error:
                self._unroll()
        except OSError as error:
            self._fail(error)
        os.close(self._fd)
        self._fd = -1

    def _unroll(self) -> None:
        ring = os.pread(self._fd, self._ring, self._head)
        oldest = ring[self._at + len(self._seam) :] if self._at else ring
        self.left_out += self._ring - self._at - len(oldest) if self._at else 0
        text = oldest + ring[: self._at]
        if self.left_out:
            text = f"\n[… {self.left_out} bytes left out …]\n".encode() + text
        self._put(text, self._head)
        os.ftruncate(self._fd, self._head + len(text))

    def _put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view = view[written:]
            offset += written

    def _fail(self, error: OSError) -> None:
        self.error = error.strerror or str(error)
