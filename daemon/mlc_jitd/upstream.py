"""Our entries under upstream's own names, and upstream's own files for who may not compile.

Upstream's ``jit()`` looks for ``model_lib/<md5>.<suffix>``. Its md5 knows less than a key (no toolchain, no resolved
target, no variables), so what lies under such a name may have been made by any compiler: ours goes there for the
programs that still call upstream, and what upstream left is handed out only where compiling is forbidden, with a
warning. What does not belong here: the files themselves (``store.upstream``), and when copies are made (``naming``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.store.upstream import UpstreamNames

if TYPE_CHECKING:
    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier, Identity, UpstreamName
    from mlc_jitd.store import Entry, Store
    from mlc_jitd.store.upstream import Placed

logger = logging.getLogger(__name__)

KINDS = frozenset({"cpu", "cuda", "rocm", "metal", "vulkan", "opencl"})
"""Device texts without an index; upstream's engine passes a tvm Device, whose text has one."""

_SAYS: dict[Placed, str] = {
    "another-entry": "another entry has that name, since upstream's hash knows less than a key",
    "another-toolchain": "another toolchain's library has that name, and may be what others on this host use",
    "not-ours": "a file that mlc-jitd did not make has that name",
    "no-room": "there is too little room",
    "busy": "another process holds the lock",
}


@dataclass(frozen=True, slots=True)
class Stopgap:
    """A file of upstream's that may be handed out where there is no entry and compiling is forbidden.

    Attributes:
        path: Absolute.
        prefix: The system library prefix in upstream's result.
        warning: What is not known of it; for people.
    """

    path: str
    prefix: str | None
    warning: str


class Upstream:
    """Upstream's names in one home. From any thread; slow where a compiler must be asked for its hash.

    Args:
        identifier: Knows upstream's names for a request.
        store: The cache.
    """

    def __init__(self, identifier: Identifier, store: Store) -> None:
        self._identifier = identifier
        self._store = store
        self.files = UpstreamNames(store.layout)

    def names(self, request: JitRequest, identity: Identity) -> tuple[UpstreamName, ...]:
        """Where upstream's ``jit()`` would look for what is asked: the given device text first, then its other texts.

        Raises:
            JitError: The toolchain can't say.
        """
        if identity.toolchain.name != "mlc_llm":
            return ()
        names = self._identifier.upstream_names(request, *other_texts(request.device, identity))
        return tuple(name for name in names if name.suffix == identity.suffix)

    def place(self, request: JitRequest, identity: Identity, entry: Entry) -> dict[str, Placed]:
        """Put copies of an entry under upstream's names for a request.

        Nothing is done for a degraded library, nor for one that was compiled under variables that upstream's hash does
        not know: programs that ask upstream's way would get it without having asked for it. Nor for an entry of a
        read-only layer.

        Returns:
            What became of each name.

        Raises:
            JitError: The toolchain can't say the names.
            OSError: The file system refused.
        """
        if entry.manifest.degraded or identity.part("environment").value:
            return {}
        if Path(entry.path).parent != self._store.layout.library:
            return {}  # of a lower layer: it would have no entry here to belong to
        done: dict[str, Placed] = {}
        for name in self.names(request, identity):
            file = f"{name.md5}.{name.suffix}"
            done[file] = placed = self.files.place(name.md5, name.suffix, entry)
            if placed == "placed":
                logger.info("%s is also upstream's %s (for the device %s)", entry.key[:12], file, name.device)
            elif placed in _SAYS:
                logger.info("%s is not put under upstream's name %s: %s", entry.key[:12], file, _SAYS[placed])
        return done

    def stopgap(self, request: JitRequest, identity: Identity) -> Stopgap | str:
        """A file that upstream's own ``jit()`` left for a request, or why there is none that may be handed out.

        Only a file of this user that nobody else may write; and none that we made: of those the entry is known, and it
        is another one than what is asked. And none where variables that upstream's hash does not know change what is
        compiled.

        Raises:
            JitError: The toolchain can't say upstream's name.
        """
        if identity.part("environment").value:
            return ""
        for name in self.names(request, identity)[:1]:
            left = self.files.look(name.md5, name.suffix)
            if left is None or left.copy is not None:
                continue
            if left.doubt:
                return f"upstream's own library {left.path.name} is there but can't be used: {left.doubt}"
            warning = (
                f"{left.path} was left by mlc_llm's own jit(): which compiler made it is not known. It is used because "
                "MLC_JIT_POLICY=READONLY forbids to compile; `mlc-jit compile MODEL` makes one that is known."
            )
            return Stopgap(str(left.path), name.prefix, warning)
        return ""

    def sweep(self) -> int:
        """Know the copies again in a home that was copied, and remove those of entries that are gone; their bytes."""
        self.files.settle()
        removed = 0
        for key in sorted(self.files.orphans()):
            lock = self._store.lock(key)
            if not lock.acquire(0):
                continue  # being made anew, or being collected
            try:
                if key in self.files.orphans():
                    removed += self.files.remove(key)
            finally:
                lock.release()
        return removed


def other_texts(device: str, identity: Identity) -> tuple[str, ...]:
    """Other texts for the device of a request, which upstream takes for other devices."""
    if device == "auto":
        target = identity.part("target").value["target"]
        device = {"llvm": "cpu"}.get(target.get("kind"), str(target.get("kind")))
    return (f"{device}:0",) if device in KINDS else ()
