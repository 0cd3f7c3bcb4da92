"""Other hosts that may compile the same thing: what `work` and the engine know of them.

`fleet` implements it, where a bucket is set whose engine can be relied on. What does not belong here: buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.build import StopSignal
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry
    from mlc_jitd.toolchains.base import Stage

ELSEWHERE = "elsewhere"
"""The stage of a job while another host compiles for it."""


class Lease(Protocol):
    """The leave to compile a key, for the whole fleet or, where that could not be had, for this host alone."""

    def tell(self, stage: Stage) -> None:
        """How far the compile is; others are shown it."""

    def made(self) -> None:
        """The library is in the cache; the lease is held until it is in the bucket, or can't be put there."""

    def end(self, how: Literal["failed", "released"]) -> None:
        """There is no library: the compiler failed, or this host gave up and others may try. Never waits."""


@runtime_checkable
class Away(Protocol):
    """Another host compiles it."""

    def wait(self, report: Callable[[Stage], None], stop: StopSignal) -> Entry | None:
        """Wait until there is something to do; hold no cores meanwhile.

        Args:
            report: Told what the other host says of its compile.
            stop: Ends the wait from another thread.

        Returns:
            The library, published here; ``None`` if this host should try again to compile it, or ``stop`` said so.
        """


@dataclass(frozen=True, slots=True)
class Came:
    """The library has come meanwhile."""

    entry: Entry


class Fellows(Protocol):
    """From any thread. Trouble elsewhere is no error: then each host compiles for itself."""

    def take(self, identity: Identity, stop: StopSignal) -> Lease | Away | Came:
        """Who compiles this? Takes some requests' time. The caller holds the key's lock, and cores."""

    def counters(self) -> dict[str, int]:
        """How often what happened."""
