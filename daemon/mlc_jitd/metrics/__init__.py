"""Prometheus metrics: at an address that is scraped, in a file for node_exporter, or both.

Imported only where they are asked for.
``catalog`` says what there is, ``meter`` follows the engine, ``collector`` makes prometheus-client's values of both,
``endpoint`` and ``textfile`` hand them out, in threads that nobody waits for.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol

from mlc_jit._version import __version__
from mlc_jit.errors import JitError, RequestError
from mlc_jitd.metrics.catalog import Reading
from mlc_jitd.metrics.endpoint import Endpoint, listen
from mlc_jitd.metrics.meter import Meter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from mlc_jit.messages import CacheReport
    from mlc_jitd.config import Settings
    from mlc_jitd.engine import Engine, Facts
    from mlc_jitd.observe import Live
    from mlc_jitd.store import Store

logger = logging.getLogger(__name__)

FACTS_SECONDS = 2.0
"""How long a scrape waits for the engine's thread."""
OPEN_SECONDS = 5.0
"""How long the end of a daemon waits for metrics that have hardly begun."""
CACHE_SECONDS = 15.0
"""How often the cache folder is counted at most."""


class Closed(Protocol):
    """Something to be closed."""

    def close(self) -> None:
        """Do it."""


class Metrics:
    """Everything about metrics in one daemon. What can't be had is logged, and the daemon serves without it.

    Args:
        settings: Where metrics go.
        engine: Is followed, and asked.
        live: What is known of the host.
        store: Is counted.
    """

    def __init__(self, settings: Settings, engine: Engine, live: Live, store: Store) -> None:
        self._engine = engine
        self._live = live
        self._store = store
        self._meter = Meter()
        self._begun = time.time()
        self._cache: tuple[float, tuple[int, int] | None, CacheReport | None] | None = None
        self._counting = threading.Lock()
        self._ways: list[Closed] = []
        engine.onlookers.append(self._meter)
        # Apart: to import what they take is a good part of a daemon's start.
        self._opening = threading.Thread(target=self._open, args=(settings,), name="metrics-start", daemon=True)
        self._opening.start()

    def close(self) -> None:
        """End."""
        self._opening.join(OPEN_SECONDS)
        for way in self._ways:
            way.close()

    def _open(self, settings: Settings) -> None:
        try:
            registry = self._registry()
        except JitError as error:
            logger.error("%s", error)  # noqa: TRY400 - a sentence, no traceback
            return
        for value, way in ((settings.metrics, self._listen), (settings.metrics_textfile, self._write)):
            try:
                if value:
                    self._ways.append(way(value, registry))
            except JitError as error:
                logger.error("%s", error)  # noqa: TRY400 - a sentence, no traceback

    def _registry(self) -> CollectorRegistry:
        try:
            from mlc_jitd.metrics.collector import Collector, registry  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise RequestError(
                f"Metrics need the package prometheus-client: {error}.",
                remedy="Install it (`pip install 'mlc-jitd[metrics]'`), or unset `metrics` and `metrics_textfile`.",
            ) from error
        return registry(Collector(self.read))

    def _listen(self, address: str, registry: CollectorRegistry) -> Closed:
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra

        def render(accept: str) -> tuple[str, bytes]:
            encode, kind = choose_encoder(accept)
            return kind, encode(registry)

        endpoint = Endpoint(listen(address), render)
        logger.info("metrics are served at %s", endpoint.address)
        return endpoint

    def _write(self, path: str, registry: CollectorRegistry) -> Closed:
        from mlc_jitd.metrics.textfile import Textfile  # noqa: PLC0415 - an extra

        return Textfile(path, registry)

    def read(self) -> Reading | None:
        """The daemon as it is now; ``None`` if its engine does not answer. May take seconds."""
        answers: queue.SimpleQueue[Facts] = queue.SimpleQueue()
        self._engine.facts(answers.put)
        try:
            facts = answers.get(timeout=FACTS_SECONDS)
        except queue.Empty:
            return None
        counters = {**facts.counters, **self._live.counters()}
        requests, jobs, histograms = self._meter.read()
        requests["hit", ""] = counters.get("hits", 0)  # most of them nobody was told of
        entries, cache = self._counted()
        return Reading(
            facts=facts,
            host=self._live.host(facts.waiting),
            counters=counters,
            requests=requests,
            jobs=jobs,
            histograms=histograms,
            entries=entries,
            cache=cache,
            version=__version__,
            started=self._begun,
        )

    def _counted(self) -> tuple[tuple[int, int] | None, CacheReport | None]:
        """What is in the cache, as of a few seconds ago at most."""
        with self._counting:
            if self._cache is None or time.monotonic() - self._cache[0] >= CACHE_SECONDS:
                entries: tuple[int, int] | None = None
                cache: CacheReport | None = None
                try:
                    totals = self._store.totals()
                    entries, cache = (totals.entries, totals.bytes), self._engine.cache_report()
                except (JitError, OSError) as error:
                    logger.debug("the cache can't be counted: %s", error)
                self._cache = time.monotonic(), entries, cache
            return self._cache[1], self._cache[2]
