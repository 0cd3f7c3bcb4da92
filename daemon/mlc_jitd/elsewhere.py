"""Where a library may be that is not on this host: what `work` and the engine know of it.

`fleet` implements it, where a bucket is set. What does not belong here: buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry


_MEGABYTE = 1_000_000

FETCHING = "fetching"
"""The stage of a request while its library comes from elsewhere."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """A library on its way.

    Attributes:
        where: From where, for people.
        got: Bytes that have come.
        size: Of how many.
    """

    where: str
    got: int
    size: int

    @property
    def words(self) -> str:
        """For people."""
        scale, unit = (1e6, "MB") if self.size >= _MEGABYTE else (1e3, "kB")
        return f"{self.got / scale:.1f} of {self.size / scale:.1f} {unit} from {self.where}"

    @property
    def fraction(self) -> float:
        """0 to 0.99, as in a progress."""
        return min(0.99, self.got / self.size) if self.size else 0.0


def unheard(_arriving: Arriving) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What asking elsewhere came to.

    Attributes:
        entry: The library, published here; ``None`` if there is none to be had.
        why: Why there is none, a phrase for people; empty where there is nothing to say.
    """

    entry: Entry | None = None
    why: str = ""


class Elsewhere(Protocol):
    """From any thread. No method raises for trouble elsewhere: that is a miss."""

    def fetch(
        self,
        identity: Identity,
        *,
        locked: bool = False,
        known: float = 0.0,
        told: Callable[[Arriving], None] = unheard,
    ) -> Fetched:
        """Get a library that is not here, verify it, and publish it here. Waits, within bounds.

        Args:
            identity: Which.
            locked: The caller holds the key's lock; else it is taken here, and if somebody else has it, nothing is
                fetched: a compile of it runs.
            known: Seconds for which an earlier answer that there is none still counts.
            told: How far it is, some times a second, once it comes; in this thread.
        """

    def counters(self) -> dict[str, int]:
        """How often what happened."""
