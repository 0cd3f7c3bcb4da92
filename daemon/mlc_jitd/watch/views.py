"""What a status and a listing say of model folders. From any thread; nothing is looked at for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlc_jit import messages as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jitd.asks import Asks
    from mlc_jitd.watch.arming import Watched


def of_status(status: m.Status, asks: Asks, held: Mapping[str, Watched], counted: Mapping[str, int]) -> m.Status:
    """A status with the folders that are known.

    Args:
        status: As the other rooms have it.
        asks: Who asks for what.
        held: The folders that are followed, by path; the others are looked at now and then.
        counted: What joins its counters.
    """
    rows = []
    for folder in sorted(asks.folders(), key=lambda each: each.path):
        watched = held.get(folder.path)
        rows.append(
            m.FolderReport(
                path=folder.path,
                watched=watched.manner if watched else "scan",
                why=watched.why if watched else "",
                keep=folder.keep,
                keys=tuple(sorted(folder.current())),
            )
        )
    return replace(status, folders=tuple(rows), counters={**status.counters, **counted})


def of_listing(listing: m.Listing, asks: Asks) -> m.Listing:
    """A listing whose entries say why they are kept, and since when nobody asks for them."""
    pinned, stale = asks.pinned(), asks.stale()
    rows = (replace(row, pinned=pinned.get(row.key, ""), stale=stale.get(row.key)) for row in listing.entries)
    return replace(listing, entries=tuple(rows))
