"""How much one user may ask of the daemon at a time, and when a connection is to be closed. Pure: time comes in.

Two measures. What is asked and not answered yet is counted, for each user and kind of question. What makes work for the
daemon's one server thread (every message but a hit that is known by its bytes) costs tokens of the user; who has none
left is disconnected.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["library", "report", "watch"]
Verdict = Literal["taken", "again", "busy"]

USERS = 4096
"""Users whose tokens are remembered."""

PENALTY_SECONDS = 1.0
"""How long who was disconnected must wait: to accept, to look and to end costs as much as some hits."""

CONNECTIONS = 16_384
"""Connections of which it is known what they ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For each user.

    Attributes:
        library: Libraries asked for and not there yet.
        report: Statuses, listings and explanations on their way.
        watch: Connections that are told what happens.
        connections: Open connections, silent ones too.
        tokens: What can be spent at once: a fleet of 500 processes that boot together takes 1,000 or so.
        tokens_per_second: What is given back.
    """

    library: int = 512
    report: int = 16
    watch: int = 8
    connections: int = 1024
    tokens: float = 8000.0
    tokens_per_second: float = 2000.0


COST = {"message": 1.0, "connection": 1.0, "report": 100.0, "fault": 20.0}
"""In tokens. A fault is a message that is none, or that its sender may not send."""


@dataclass(slots=True)
class _Asked:
    uid: int
    kinds: dict[int, Kind] = field(default_factory=dict)


class Meter:
    """See the module's docstring; used by one thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._asked: OrderedDict[bytes, _Asked] = OrderedDict()
        self._pending: Counter[tuple[int, Kind]] = Counter()
        self._tokens: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self._shut_out: OrderedDict[int, float] = OrderedDict()

    def asked(self, connection: bytes, uid: int, id_: int, kind: Kind) -> Verdict:
        """A question has come: it is taken, or known to be on its way already, or one too many for this user."""
        held = self._asked.get(connection)
        if held is not None and id_ in held.kinds:
            return "again"
        if self._pending[uid, kind] >= getattr(self.limits, kind):
            return "busy"
        if held is None:
            held = self._asked[connection] = _Asked(uid)
            if len(self._asked) > CONNECTIONS:
                self.gone(next(iter(self._asked)))
        held.kinds[id_] = kind
        self._pending[uid, kind] += 1
        return "taken"

    def answered(self, connection: bytes, id_: int) -> None:
        """The question's last answer has left, or its asker has."""
        held = self._asked.get(connection)
        if held is None:
            return
        kind = held.kinds.pop(id_, None)
        if kind is not None:
            self._release(held.uid, kind)
        if not held.kinds:
            del self._asked[connection]

    def gone(self, connection: bytes) -> None:
        """The connection is no more."""
        held = self._asked.pop(connection, None)
        for kind in held.kinds.values() if held is not None else ():
            self._release(held.uid, kind)  # type: ignore[union-attr]

    def pending(self, uid: int, kind: Kind) -> int:
        """How many questions of a user are on their way."""
        return self._pending[uid, kind]

    def spend(self, uid: int, cost: float, now: float) -> bool:
        """Take tokens of a user; whether there were enough.

        Args:
            uid: Whose.
            cost: One of ``COST``.
            now: Seconds on a monotonic clock.
        """
        left, at = self._tokens.pop(uid, (self.limits.tokens, now))
        left = min(self.limits.tokens, left + (now - at) * self.limits.tokens_per_second)
        enough = left >= cost
        self._tokens[uid] = (left - cost if enough else left, now)
        if len(self._tokens) > USERS:
            self._tokens.popitem(last=False)
        return enough

    def shut_out(self, uid: int, now: float) -> None:
        """A connection of this user was ended: for a while no new one is taken."""
        self._shut_out[uid] = now + PENALTY_SECONDS
        self._shut_out.move_to_end(uid)
        if len(self._shut_out) > USERS:
            self._shut_out.popitem(last=False)

    def is_shut_out(self, uid: int, now: float) -> bool:
        """Whether new connections of this user are not taken yet."""
        return now < self._shut_out.get(uid, now)

    def _release(self, uid: int, kind: Kind) -> None:
        self._pending[uid, kind] -= 1
        if self._pending[uid, kind] <= 0:
            del self._pending[uid, kind]
