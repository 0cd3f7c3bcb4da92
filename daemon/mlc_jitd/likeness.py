"""What compiles like this one took: seconds, seconds per stage and peak memory, from the manifests of the cache.

The same key compiled before is the best witness, then the same configuration, then the same model type and quantization
by the same toolchain. An estimate only: limits are the build room's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Manifest

MARGIN = 1.25
"""What is asked for beyond the largest peak that was seen."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a compile is expected to take; ``None`` where nothing like it is known."""

    seconds: float | None = None
    memory: int | None = None
    stages: tuple[tuple[str, float], ...] = ()


class Likeness:
    """Learns from manifests; from any thread."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, Expectation] = {}
        self._lock = threading.Lock()

    def learn_all(self, manifests: Iterable[Manifest]) -> None:
        """Take in a whole cache."""
        for manifest in sorted(manifests, key=lambda each: each.created):
            self.learn(manifest)

    def learn(self, manifest: Manifest) -> None:
        """Take in one compile: the newest time counts, and the largest memory."""
        record = manifest.compile
        if record.seconds <= 0:
            return
        model = manifest.parts.get("model")
        with self._lock:
            for kin in _kin(
                manifest.key,
                manifest.toolchain.name,
                model.sha256 if model else "",
                manifest.model.type,
                manifest.model.quantization,
            ):
                before = self._seen.get(kin, Expectation())
                memory = max(before.memory or 0, record.peak_memory) or None
                self._seen[kin] = Expectation(record.seconds, memory, tuple(record.stages.items()))

    def of(self, identity: Identity) -> Expectation:
        """What to expect of a compile."""
        model = next((part.sha256 for part in identity.parts if part.name == "model"), "")
        with self._lock:
            name = identity.toolchain.name
            for kin in _kin(identity.key, name, model, identity.model_type, identity.quantization):
                seen = self._seen.get(kin)
                if seen is not None:
                    memory = None if seen.memory is None else int(seen.memory * MARGIN)
                    return Expectation(seen.seconds, memory, seen.stages)
        return Expectation()


def _kin(key: str, toolchain: str, model: str, model_type: str, quantization: str) -> tuple[Hashable, ...]:
    """Nearest first."""
    return (key, (toolchain, model), (toolchain, model_type, quantization))
