"""Other hosts that compile, the same for themselves or on demand: what `work` and the engine know of them.

`fleet` implements it, where a bucket or a farm is set. What does not belong here: buckets, clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.build import StopSignal
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import About, Entry
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


class NoLease:
    """A lease of nothing: this host compiles for itself."""

    def tell(self, stage: Stage) -> None:
        """Nobody listens."""

    def made(self) -> None:
        """Nobody waits."""

    def end(self, how: Literal["failed", "released"]) -> None:
        """Nothing is held."""


@runtime_checkable
class Away(Protocol):
    """Somebody else compiles it: another host, a farm, another process of this host (`locked`)."""

    def wait(self, report: Callable[[Stage], None], stop: StopSignal) -> Came | None:
        """Wait until there is something to do; hold no cores meanwhile.

        Args:
            report: Told what there is to know of that compile.
            stop: Ends the wait from another thread.

        Returns:
            The library, published here; ``None`` if this process should try again to compile it, or ``stop`` said so.

        Raises:
            JitError: There is none to be had.
        """


@dataclass(frozen=True, slots=True)
class Came:
    """The library has come meanwhile; ``compiled``: it was made for this host, which shares it as its own."""

    entry: Entry
    compiled: bool = False


class Fellows(Protocol):
    """From any thread. Trouble elsewhere is no error: then each host compiles for itself."""

    def take(self, identity: Identity, stop: StopSignal) -> Lease | Away | Came:
        """Who compiles this? Takes some requests' time. The caller holds the key's lock, and cores."""

    def counters(self) -> dict[str, int]:
        """How often what happened."""


class FarmError(Exception):
    """A compile farm could not; the message says why."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A library that a farm made, and what there is to say of it."""

    library: bytes
    about: About


class Farm(Protocol):
    """Compiles elsewhere, on demand. From any thread."""

    def compile(
        self,
        identity: Identity,
        *,
        model_path: str,
        device: str,
        redo: bool,
        accelerated: bool,
        background: bool,
        report: Callable[[Stage], None],
        stop: StopSignal,
    ) -> Crop:
        """Have something compiled, and wait for it.

        Raises:
            FarmError: The farm could not, or ``stop`` said so.
            JitError: It was tried there and failed.
        """

    def counters(self) -> dict[str, int]:
        """How often what happened."""
