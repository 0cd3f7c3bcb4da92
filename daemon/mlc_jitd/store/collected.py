"""A note of what the last collection did, in the home, for whoever looks: a daemon or none, this process or another."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import msgspec

from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, read

if TYPE_CHECKING:
    from mlc_jitd.store.layout import Layout

NAME = ".collected"
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LastCollection:
    """What it did.

    Attributes:
        when: Unix time of its end.
        removed: Artifacts.
        freed: Their bytes.
        over: Bytes by which the cache stayed over its size.
        short: Bytes that the disk still lacked.
    """

    when: float = 0.0
    removed: int = 0
    freed: int = 0
    over: int = 0
    short: int = 0


def write(layout: Layout, last: LastCollection) -> None:
    """Note it; what can't be written is not noted."""
    path = layout.library / NAME
    draft = path.with_name(f"{NAME}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            draft.write_text(json.dumps(asdict(last)))
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def last(layout: Layout) -> LastCollection | None:
    """The last collection, as far as it is known."""
    try:
        return msgspec.json.decode(read(layout.library / NAME, MOST_BYTES)[0], type=LastCollection)
    except (OSError, DamagedError, ForeignError, ChangedError, msgspec.MsgspecError):
        return None
