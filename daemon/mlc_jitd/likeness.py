"""What compiles like this one took: seconds, seconds per stage and peak memory, from the manifests of the cache.

The same key compiled before is the best witness, then the same configuration, then the same model type and quantization
by the same toolchain. Memory has witnesses of the same way only: kernels compiled apart are compiled by a process for
each core, the compiler's own code generation is one process. An estimate only: limits are the build room's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from mlc_jitd.identity import Identity
    from mlc_jitd.store import CompileRecord, Manifest

MARGIN = 1.25
"""What is asked for beyond the largest peak that was seen."""

MOST_CORES = 64
"""Different numbers of cores that are remembered of one kin; a manifest may say anything."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a compile is expected to take; ``None`` where nothing like it is known."""

    seconds: float | None = None
    memory: int | None = None
    stages: tuple[tuple[str, float], ...] = ()


class Likeness:
    """Learns from manifests; from any thread."""

    def __init__(self) -> None:
        self._times: dict[Hashable, tuple[float, tuple[tuple[str, float], ...]]] = {}
        self._peaks: dict[Hashable, dict[int, int]] = {}
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
        apart = bool(record.kernels.way)  # also where that was tried, and stepped back from: so it will again
        with self._lock:
            for kin in kins:
                times = (record.seconds, tuple(record.stages.items()))
                self._times[kin] = self._times[kin, apart] = times
                peaks = self._peaks.setdefault((kin, apart), {})
                if record.peak_memory and (record.cores in peaks or len(peaks) < MOST_CORES):
                    peaks[record.cores] = max(peaks.get(record.cores, 0), record.peak_memory)

    def of(self, identity: Identity, *, apart: bool = False, cores: int = 1) -> Expectation:
        """What to expect of a compile.

        Args:
            identity: Of what.
            apart: Whether its kernels are going to be compiled apart.
            cores: How many it gets.
        """
        model = next((part.sha256 for part in identity.parts if part.name == "model"), "")
        kins = _kin(identity.key, identity.toolchain.name, model, identity.model_type, identity.quantization)
        with self._lock:
            ways = [(kin, apart) for kin in kins]
            seconds, stages = next((self._times[each] for each in (*ways, *kins) if each in self._times), (None, ()))
            peak = next((_peak(peaks, apart, cores) for each in ways if (peaks := self._peaks.get(each))), None)
        return Expectation(seconds, None if peak is None else int(peak * MARGIN), stages)


def _peak(peaks: Mapping[int, int], apart: bool, cores: int) -> int:
    """The peak with so many cores, from those seen with others.

    The compiler's own code generation does not go by cores. Apart, fewer cores take no more memory than were seen, and
    more cores at most so many times as much, since the compiler's own process is in it but once.
    """
    if not apart:
        return max(peaks.values())
    if cores in peaks:
        return peaks[cores]
    return min(int(peak * max(1.0, cores / max(1, seen))) for seen, peak in peaks.items())


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
