"""Where a library may be that is not on this host: what `work` and the engine know of it.

`fleet` implements it, where a bucket is set. What does not belong here: buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry


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

    def fetch(self, identity: Identity, *, locked: bool = False, known: float = 0.0) -> Fetched:
        """Get a library that is not here, verify it, and publish it here. Waits, within bounds.

        Args:
            identity: Which.
            locked: The caller holds the key's lock; else it is taken here, and if somebody else has it, nothing is
                fetched: a compile of it runs.
            known: Seconds for which an earlier answer that there is none still counts.
        """

    def counters(self) -> dict[str, int]:
        """How often what happened."""
