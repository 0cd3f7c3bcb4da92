"""What the daemon says of itself and of its cache: the greeting, the status, the listing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit._version import __version__
from mlc_jitd.reports import layer_report, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jit.locations import Locations
    from mlc_jitd.store import KernelStore, Manifest, Store
    from mlc_jitd.store.files import Stamp

REMEMBERED = 16_384
"""Rows of the listing that are kept, at some 700 bytes each."""

LISTING_CHUNK = 500
"""Entries in one message of a listing."""


class Overview:
    """Reports of one daemon. From any thread.

    Args:
        store: The cache.
        places: Where the daemon is.
        log_path: Its log file, if it has one.
        kernels: The kernels of all toolchains, where they are kept.
    """

    def __init__(self, store: Store, places: Locations, log_path: str, *, kernels: KernelStore | None = None) -> None:
        self._store = store
        self._rows: dict[str, tuple[Stamp, m.EntryReport]] = {}
        self._kernels = kernels
        self._places = places
        self._log_path = log_path

    def welcome(self, hello: m.Hello) -> m.Welcome:
        """The answer to a greeting."""
        return m.Welcome(
            id=hello.id,
            protocol=m.PROTOCOL,
            version=__version__,
            features=m.FEATURES,
            pid=os.getpid(),
            home=str(self._places.home),
            log_path=self._log_path,
        )

    def status(
        self,
        id_: int,
        *,
        uptime: float,
        draining: bool,
        slots: int,
        jobs: tuple[m.JobReport, ...],
        counters: dict[str, int],
    ) -> Callable[[], m.Status]:
        """The status, with the engine's facts of this moment; the call of what is returned reads the cache folder."""

        def made() -> m.Status:
            totals = self._store.totals()
            if self._kernels is not None:
                known = self._kernels.totals()
                counters.update(kernels=known.kernels, kernel_bytes=known.bytes)
            return m.Status(
                id=id_,
                version=__version__,
                pid=os.getpid(),
                uptime=uptime,
                home=str(self._places.home),
                socket=str(self._places.socket),
                log_path=self._log_path,
                draining=draining,
                slots=slots,
                jobs=jobs,
                entries=totals.entries,
                bytes=totals.bytes,
                counters=counters,
                layers=tuple(map(layer_report, self._store.layers)),
            )

        return made

    def learn(self, manifest: Manifest, stamp: Stamp) -> None:
        """Keep what the listing says of an entry, so that it need not be read again while it is what it was."""
        if len(self._rows) < REMEMBERED:
            self._rows[manifest.key] = (stamp, row(self._store.layout.library / manifest.artifact, manifest))

    def _own_rows(self) -> Iterator[m.EntryReport]:
        known = dict(self._rows)
        self._rows = {}  # what is gone by now is forgotten
        for key, manifest, stamp in self._store.stamped({key: stamp for key, (stamp, _) in known.items()}):
            found = known[key][1] if manifest is None else row(self._store.layout.library / manifest.artifact, manifest)
            if len(self._rows) < REMEMBERED:
                self._rows[key] = (stamp, found)
            yield found

    def listing(self, id_: int) -> Iterator[m.Listing]:
        """Every entry, newest first, in messages of a bounded size; reads every manifest."""
        rows = list(self._own_rows())
        if self._store.layers:
            rows += [row(path, manifest, layer) for layer, path, manifest in self._store.everything() if layer]
        rows.sort(key=lambda each: -each.created)
        for start in range(0, max(1, len(rows)), LISTING_CHUNK):
            chunk = tuple(rows[start : start + LISTING_CHUNK])
            yield m.Listing(id=id_, entries=chunk, more=start + LISTING_CHUNK < len(rows))
