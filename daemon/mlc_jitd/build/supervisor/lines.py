"""Which lines of a command's output are passed on while it runs: the log has all, this has what a person can read.

A carriage return ends a line too: each step of a progress bar is one. Lines without visible text are dropped.
"""

from __future__ import annotations

LONGEST = 8_000
"""Bytes of a line that are looked at: 2,000 characters of four bytes."""

_LOOKED_AT = 1_000  # lines of one chunk: a flood of newlines must not cost a second
_MARKED_RATE = 500.0


class Allowance:
    """A token bucket: `rate` a second, `rate` at once."""

    __slots__ = ("left", "rate", "when")

    def __init__(self, rate: float) -> None:
        self.rate = self.left = rate
        self.when = 0.0

    def refill(self, now: float) -> None:
        """Add what the time since the last call is worth."""
        self.left = min(self.rate, self.left + (now - self.when) * self.rate)
        self.when = now

    def take(self) -> bool:
        """Use one up, if there is one."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class LineTap:
    """Cuts chunks into lines and lets `rate` of them pass each second.

    Args:
        rate: Ordinary lines a second.
        marks: A line that holds one of these is passed on beyond the rate, up to 500 a second.

    Not guaranteed: in a flood ordinary lines are left out without a word.
    """

    def __init__(self, rate: float, marks: list[bytes]) -> None:
        self._plain = Allowance(rate)
        self._marked = Allowance(_MARKED_RATE)
        self._marks = [mark for mark in marks if mark]
        self._partial = b""

    def feed(self, chunk: bytes, now: float) -> list[str]:
        """The lines to pass on, with all but their line end; `now` is in seconds of any steady clock."""
        data = self._partial + chunk
        if b"\r" in data:
            data = data.replace(b"\r", b"\n")
        end = data.rfind(b"\n")
        self._partial = data[end + 1 : end + 1 + LONGEST]
        if end < 0:
            return []
        self._plain.refill(now)
        self._marked.refill(now)
        passed: list[bytes] = []
        start = self._take_plain(data, end, passed)
        if start < end:
            self._take_marked(data, start, end, passed)
        return [line.decode("utf-8", "replace") for line in passed]

    def rest(self) -> list[str]:
        """The last line, which had no end. Call once, after the last chunk."""
        last, self._partial = self._partial, b""
        return [last.decode("utf-8", "replace")] if last.strip() else []

    def _take_plain(self, data: bytes, end: int, passed: list[bytes]) -> int:
        start = 0
        for _ in range(_LOOKED_AT):
            if start >= end:
                break
            stop = data.find(b"\n", start, end + 1)
            line = data[start : min(stop, start + LONGEST)]
            if line.strip():
                if not self._plain.take():
                    break
                passed.append(line)
            start = stop + 1
        return start

    def _take_marked(self, data: bytes, start: int, end: int, passed: list[bytes]) -> None:
        found: dict[int, bytes] = {}
        for mark in self._marks:
            at = data.find(mark, start, end)
            while at >= 0 and len(found) < _MARKED_RATE:
                first = data.rfind(b"\n", 0, at) + 1
                stop = data.find(b"\n", at, end + 1)
                found[first] = data[first : min(stop, first + LONGEST)]
                at = data.find(mark, stop, end)
        passed += [found[first] for first in sorted(found) if self._marked.take()]
