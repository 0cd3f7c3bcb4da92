"""What a lease's object holds: who compiles, how far it is, and how it ended. A value, and its bytes.

No time of day is in it: what took how long is said in seconds of the holder's own clock.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

RECORD_BYTES = 4096
"""An object that is longer is nobody's record."""

LONGEST_TEXT = 200
FORMAT = 1

Ended = Literal["", "published", "failed", "released"]
_ENDS = ("", "published", "failed", "released")


@dataclass(frozen=True, slots=True)
class Record:
    """One sign of life.

    Attributes:
        owner: Names one claim of one host.
        host: Its name, for people.
        beat: Goes up with each sign of life.
        ended: ``published``, ``failed`` (the compile), ``released`` (given back: cancelled, drained); empty while held.
        lease: Its lease time in seconds; silent for two thirds of that, it counts as dead.
        stage: Of the compile.
        elapsed: Seconds since it holds the lease.
        left: Seconds until the end of the compile, where they are known.
    """

    owner: str
    host: str
    beat: int = 0
    ended: Ended = ""
    lease: float = 30.0
    stage: str = ""
    elapsed: float = 0.0
    left: float | None = None

    def same_beat(self, other: Record | None) -> bool:
        """Whether nothing was written between the two."""
        return other is not None and (self.owner, self.beat, self.ended) == (other.owner, other.beat, other.ended)

    def next(self, *, stage: str, elapsed: float, left: float | None, ended: str = "") -> Record:
        """The holder's next sign of life."""
        assert ended in _ENDS
        return replace(self, beat=self.beat + 1, stage=stage, elapsed=elapsed, left=left, ended=cast("Ended", ended))

    def encode(self) -> bytes:
        """As the object's bytes."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> Record:
        """Read an object's bytes. What can't be read is a holder that says nothing, and dies like any other."""
        try:
            given = json.loads(body[: RECORD_BYTES + 1])
            return cls(
                owner=_text(given["owner"]),
                host=_text(given["host"]),
                beat=_count(given["beat"]),
                ended=cast("Ended", given["ended"]) if given.get("ended") in _ENDS else "",
                lease=_seconds(given.get("lease", 30.0)),
                stage=_text(given.get("stage", "")),
                elapsed=_seconds(given.get("elapsed", 0.0)),
                left=None if given.get("left") is None else _seconds(given["left"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            digest = hashlib.sha256(body).digest()
            # No lease time of its own: the reader's counts.
            return cls(owner="", host="an unknown host", beat=int.from_bytes(digest[:6], "big"), lease=0.0)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return "".join(each if each.isprintable() else " " for each in value[:LONGEST_TEXT])


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("no count")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:  # noqa: PLR2004 - NaN too
        raise TypeError("no number of seconds")
    return float(value)
