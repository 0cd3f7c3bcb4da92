"""What a daemon learns from the manifests of its home when it starts: each is read once, for all who learn."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.likeness import Likeness
    from mlc_jitd.overview import Overview
    from mlc_jitd.store import Manifest
    from mlc_jitd.work import Work

GENTLE = 16
GENTLE_SECONDS = 0.001
"""Manifests that are read before everybody else gets a turn, and how long that is."""


def begin(work: Work, likeness: Likeness, overview: Overview) -> None:
    """Learn in a thread of its own: ten thousand manifests take a moment to read, and the first answer can't wait."""
    threading.Thread(target=_learn, args=(work, likeness, overview), name="likeness", daemon=True).start()


def _learn(work: Work, likeness: Likeness, overview: Overview) -> None:
    def read() -> Iterator[Manifest]:
        for number, (_, manifest, stamp) in enumerate(work.store.stamped({})):
            if manifest is not None:
                work.known.learn(manifest)
                overview.learn(manifest, stamp)
                yield manifest
            if number % GENTLE == GENTLE - 1:
                time.sleep(GENTLE_SECONDS)  # who asks meanwhile must not wait for this

    likeness.learn_all(read())
    work.known.refresh()
