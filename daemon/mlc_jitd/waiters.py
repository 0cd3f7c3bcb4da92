"""Who waits for an answer on which connection, and whose process has ended meanwhile. For the server's thread alone.

What does not belong here: messages to them (`server`), and what becomes of that for which nobody waits any more
(`engine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jitd.deaths import Deaths

if TYPE_CHECKING:
    from collections.abc import Iterator

AWAITED = (m.JitRequest, m.Explain, m.Keep, m.WatchRequest, m.StatusRequest, m.ListRequest)
"""Requests whose answer may take long: who waits for one hears heartbeats, and its end is heard of."""

FINAL = (m.Result, m.Explained, m.Kept, m.Status, m.Listing, m.Failure)
"""Replies that end a wait; a listing does with its last part."""


def is_final(message: m.Message) -> bool:
    """Whether a reply is the last word on its question."""
    return isinstance(message, FINAL) and not (isinstance(message, m.Listing) and message.more)


class Waiters:
    """Connections, and the ids of their questions that have no answer yet."""

    def __init__(self) -> None:
        self._ids: dict[bytes, set[int]] = {}
        self.deaths = Deaths()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._ids)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._ids

    def __iter__(self) -> Iterator[bytes]:
        """The connections that wait, as they are now."""
        return iter(list(self._ids))

    def count(self) -> int:
        """How many questions have no answer; from any thread."""
        return sum(map(len, list(self._ids.values())))

    def awaits(self, identity: bytes, id_: int) -> bool:
        """Whether a connection waits for the answer to one question."""
        return id_ in self._ids.get(identity, ())

    def add(self, identity: bytes, id_: int) -> None:
        """A question that may take long."""
        self._ids.setdefault(identity, set()).add(id_)

    def answered(self, identity: bytes, id_: int) -> bool:
        """The last word on a question, or nobody wants it any more.

        Returns:
            Whether the connection waited for anything.
        """
        ids = self._ids.get(identity)
        if ids is None:
            return False
        ids.discard(id_)
        if not ids:
            del self._ids[identity]
            self.deaths.forget(identity)
        return True

    def lost(self, identity: bytes) -> bool:
        """Nobody is behind a connection any more.

        Returns:
            Whether it waited for anything.
        """
        self.deaths.forget(identity)
        return self._ids.pop(identity, None) is not None

    def close(self) -> None:
        """Give every descriptor back."""
        self.deaths.close()
