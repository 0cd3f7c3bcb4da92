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
    from mlc_jitd.store import CompileRecord, Manifest

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
        # Not the manifests: ten thousand of them are 200 MB.
        lessons = [(each.created, number, _lesson(each)) for number, each in enumerate(manifests)]
        for _, _, lesson in sorted(lessons):
            self._learn(*lesson)

    def learn(self, manifest: Manifest) -> None:
        """Take in one compile: the newest time counts, and the largest memory."""
        self._learn(*_lesson(manifest))

    def _learn(self, kins: tuple[Hashable, ...], record: CompileRecord) -> None:
        if record.seconds <= 0:
            return
        with self._lock:
            for kin in kins:
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


def _lesson(manifest: Manifest) -> tuple[tuple[Hashable, ...], CompileRecord]:
    model = manifest.parts.get("model")
    kins = _kin(
        manifest.key,
        manifest.toolchain.name,
        model.sha256 if model else "",
        manifest.model.type,
        manifest.model.quantization,
    )
    return kins, manifest.compile


def _kin(key: str, toolchain: str, model: str, model_type: str, quantization: str) -> tuple[Hashable, ...]:
    """Nearest first."""
    return (key, (toolchain, model), (toolchain, model_type, quantization))
