"""Which entries there are, kept small in memory, so that a miss can be explained by the nearest of ten thousand.

The cache folder is the truth. Each manifest is read once, a changed folder is listed anew, and what vanished is
forgotten: so entries that other processes publish, collect or remove are followed without being told of. What does not
belong here: how entries are compared (``explain``).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from mlc_jitd.explain import NEAREST, Asked, Explanation, Summary, There, explain, nearest
from mlc_jitd.identity import PART_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Manifest, Store

    Edits = Callable[[str, str], tuple[str, ...] | None]

READ = 4 * NEAREST
"""Near entries that are read in full: of equally near ones the values decide."""

GONE = 4096
"""Keys that are remembered as having had an entry."""

RESTLESS_SECONDS = 2.0
"""A folder that changed so shortly before it was listed may change again within one tick of its file system's clock."""


class Known:
    """Knows the entries of one store and explains misses. From any thread.

    Args:
        store: The cache.
        edits: The files that changed between two fingerprints of a toolchain, where that was seen.
    """

    def __init__(self, store: Store, edits: Edits = lambda _before, _now: None) -> None:
        self._store = store
        self._edits = edits
        self._lock = threading.Lock()
        self._known: dict[str, Summary] = {}
        self._unreadable: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._listed: tuple[int, float] | None = None

    def refresh(self, *, seconds: float | None = None) -> bool:
        """Bring what is known up to the folder.

        Args:
            seconds: How long manifests may be read; ``None`` for no limit.

        Returns:
            Whether all were read.
        """
        until = None if seconds is None else time.monotonic() + seconds
        changed = self._changed()
        with self._lock:
            if changed is not None and self._listed is not None and self._listed[0] == changed:
                return True
        now = time.time()
        keys = set(self._store.every_key())
        with self._lock:
            for key in self._known.keys() - keys:
                del self._known[key]
                self._note_gone(key)
            self._unreadable &= keys
            missing = keys - self._known.keys() - self._unreadable
        for key in missing:
            if until is not None and time.monotonic() > until:
                return False
            self._read(key)
        settled = changed is not None and abs(now - changed / 1e9) > RESTLESS_SECONDS
        with self._lock:
            self._listed = (changed, now) if settled and changed is not None else None
        return True

    def learn(self, manifest: Manifest) -> None:
        """Take in one entry."""
        summary = Summary(
            key=manifest.key,
            hashes=tuple(part.sha256 if (part := manifest.parts.get(name)) else "" for name in PART_NAMES),
            model=manifest.model.path,
            model_type=manifest.model.type,
            quantization=manifest.model.quantization,
            created=manifest.created,
        )
        with self._lock:
            self._known[manifest.key] = summary
            self._gone.pop(manifest.key, None)

    def why(self, identity: Identity, model: str, *, seconds: float | None = None) -> Explanation:
        """Why no entry answers an identity.

        Args:
            identity: What is asked.
            model: The folder that the client read the config from.
            seconds: How long manifests that are not known yet may be read; what is known by then is compared.
        """
        complete = self.refresh(seconds=seconds)
        asked = Asked(
            parts=identity.parts,
            model=model,
            model_type=identity.model_type,
            quantization=identity.quantization,
            fingerprint=identity.toolchain.fingerprint,
        )
        with self._lock:
            others = [each for each in self._known.values() if each.key != identity.key]
            formerly = identity.key in self._gone
        found = [(distance, self._whole(summary)) for distance, summary in nearest(asked, others, READ)]
        return explain(
            asked,
            [(distance, there) for distance, there in found if there is not None],
            compared=len(others),
            complete=complete,
            formerly=formerly,
            edits=self._edits,
        )

    def _changed(self) -> int | None:
        try:
            return self._store.layout.library.stat().st_mtime_ns
        except OSError:
            return None

    def _read(self, key: str) -> None:
        manifest = self._store.manifest(key)
        if manifest is None:
            with self._lock:
                self._unreadable.add(key)
        else:
            self.learn(manifest)

    def _whole(self, summary: Summary) -> There | None:
        manifest = self._store.manifest(summary.key)
        if manifest is None:
            return None
        record = manifest.toolchain
        return There(
            summary=summary,
            parts=manifest.parts,
            toolchain=f"{record.name} {record.versions.get(record.name, '')}".rstrip(),
            fingerprint=record.fingerprint,
        )

    def _note_gone(self, key: str) -> None:
        self._gone[key] = None
        if len(self._gone) > GONE:
            self._gone.popitem(last=False)
