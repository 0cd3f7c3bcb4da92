"""What prometheus-client wants: the catalog's metrics with the values of now, made when they are asked for."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mlc_jitd.metrics.catalog import METRICS, PREFIX, Metric, Reading
from mlc_jitd.metrics.meter import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.metrics.meter import Histogram

FRESH_SECONDS = 1.0
"""Scrapes in such quick succession get the same values: whoever floods the endpoint makes the daemon work once."""

_FAMILIES: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class Collector:
    """A collector for a registry.

    Args:
        read: Takes a reading; may be slow. ``None``: the daemon ends.
    """

    def __init__(self, read: Callable[[], Reading | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._at = 0.0

    def collect(self) -> Iterator[Any]:
        """The metrics, as of now."""
        with self._lock:
            if self._last is None or time.monotonic() - self._at >= FRESH_SECONDS:
                self._last, self._at = self._read(), time.monotonic()
            reading = self._last
        if reading is not None:
            for metric in METRICS:
                yield family(metric, reading)

    def describe(self) -> list[Any]:
        """Nothing is read only to be registered."""
        return []


def family(metric: Metric, reading: Reading) -> Any:
    """One metric with its samples."""
    if metric.kind == "histogram":
        found = HistogramMetricFamily(PREFIX + metric.name, metric.help, labels=metric.labels)
        for labels, histogram in reading.histograms.get(metric.name, {}).items():
            found.add_metric(labels, buckets=_cumulated(histogram), sum_value=histogram.sum)
        return found
    made = _FAMILIES[metric.kind](PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.read(reading):
        made.add_metric(labels, value)
    return made


def registry(collector: Collector) -> CollectorRegistry:
    """The daemon's metrics, with the process's own (``process_…``, ``python_gc_…``)."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    ProcessCollector(registry=made)
    GCCollector(registry=made)
    return made


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(histogram.buckets)), strict=True))
