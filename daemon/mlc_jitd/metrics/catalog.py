"""Every metric, described once: its name, its kind, its labels, its meaning, and where its value comes from. Pure.

docs/seeing.md and what a scrape says follow from this. Names as https://prometheus.io/docs/practices/naming/ has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlc_jit import messages as m
    from mlc_jitd.engine import Facts
    from mlc_jitd.metrics.meter import Histogram

PREFIX = "mlc_jitd_"

Samples = list[tuple[tuple[str, ...], float]]
"""Values by the values of the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The daemon at the moment of a scrape.

    Attributes:
        facts: The engine's.
        host: What compiles may use.
        counters: All counters, by name.
        requests: Answers by outcome and reason.
        jobs: Jobs that ended, by outcome.
        histograms: By metric, then by label values.
        entries: Libraries in the cache, and their bytes; ``None`` where the folder can't be read.
        cache: What bounds the cache.
        version: Of the daemon.
        started: Unix time.
    """

    facts: Facts
    host: m.HostReport
    counters: Mapping[str, int]
    requests: Mapping[tuple[str, str], int]
    jobs: Mapping[str, int]
    histograms: Mapping[str, Mapping[tuple[str, ...], Histogram]]
    entries: tuple[int, int] | None
    cache: m.CacheReport | None
    version: str
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: Without the prefix; of a counter without ``_total``.
        kind: What Prometheus calls it.
        help: For people, a phrase without a stop.
        labels: Names.
        read: Its samples; for a histogram its name in ``Reading.histograms`` stands for them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Reading], Samples] = field(default=lambda _reading: [])

    @property
    def full_name(self) -> str:
        """As it is queried."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def _one(read: Callable[[Reading], float]) -> Callable[[Reading], Samples]:
    return lambda reading: [((), read(reading))]


def _count(name: str, scale: float = 1.0) -> Callable[[Reading], Samples]:
    return lambda reading: [((), reading.counters.get(name, 0) * scale)]


def _by_prefix(prefix: str) -> Callable[[Reading], Samples]:
    def read(reading: Reading) -> Samples:
        found = reading.counters.items()
        return [((name.removeprefix(prefix),), value) for name, value in found if name.startswith(prefix)]

    return read


def _of_entries(which: int) -> Callable[[Reading], Samples]:
    return lambda reading: [] if reading.entries is None else [((), reading.entries[which])]


def _of_cache(read: Callable[[m.CacheReport], float]) -> Callable[[Reading], Samples]:
    return lambda reading: [] if reading.cache is None else [((), read(reading.cache))]


def _states(reading: Reading) -> Samples:
    states = [job.state for job in reading.facts.jobs]
    queued = states.count("queued")
    return [(("queued",), queued), (("running",), len(states) - queued)]


TROUBLES = (
    "broken_frames", "dropped_replies", "engine_errors", "handler_errors", "invalid_messages", "leases_unwritten",
    "lost_waiters", "refused_uid", "unknown_verbs",
)  # fmt: skip


def _troubles(reading: Reading) -> Samples:
    return [((name,), reading.counters.get(name, 0)) for name in TROUBLES]


METRICS: tuple[Metric, ...] = (
    Metric(
        name="requests",
        kind="counter",
        labels=("outcome", "reason"),
        help="requests answered: `hit`, `compiled`, `joined` (waited for a compile that ran), `stopgap` (upstream's "
        "own file) or `refused`; the reason why it was no hit, or why it was refused",
        read=lambda reading: [(labels, count) for labels, count in reading.requests.items()],
    ),
    Metric(
        name="request_seconds",
        kind="histogram",
        labels=("outcome",),
        help="time from a request to its answer; hits that are answered from memory are not in it",
    ),
    Metric(
        name="misses",
        kind="counter",
        labels=("reason",),
        help="requests that found no library",
        read=_by_prefix("misses_"),
    ),
    Metric(
        name="waiting_requests", kind="gauge", help="requests without an answer", read=_one(lambda r: r.facts.waiting)
    ),
    Metric(name="jobs", kind="gauge", labels=("state",), help="compiles that are `queued` or `running`", read=_states),
    Metric(name="job_slots", kind="gauge", help="compiles that may run at a time", read=_one(lambda r: r.facts.slots)),
    Metric(
        name="jobs_ended",
        kind="counter",
        labels=("outcome",),
        help="compiles that ended: `compiled`, `found` (another process had published it), `failed`, `cancelled` or "
        "`withdrawn`",
        read=lambda reading: [((outcome,), count) for outcome, count in reading.jobs.items()],
    ),
    Metric(
        name="job_seconds",
        kind="histogram",
        labels=("outcome",),
        help="time from a compile's start to its end",
    ),
    Metric(name="queue_seconds", kind="histogram", help="time that a compile waited to be started"),
    Metric(
        name="compile_seconds",
        kind="counter",
        help="what the libraries compiled here took",
        read=_count("compile_milliseconds", 0.001),
    ),
    Metric(
        name="lent",
        kind="counter",
        help="libraries handed to processes; each counts once for a process",
        read=_count("lent"),
    ),
    Metric(
        name="lent_compile_seconds",
        kind="counter",
        help="what those took to compile; less `mlc_jitd_compile_seconds_total` it is the time that the cache saved",
        read=_count("lent_milliseconds", 0.001),
    ),
    Metric(
        name="kernels_reused",
        kind="counter",
        help="kernels that a compile did not have to compile",
        read=_count("kernels_reused"),
    ),
    Metric(
        name="kernel_seconds_saved",
        kind="counter",
        help="processor time of those",
        read=_count("kernel_milliseconds_saved", 0.001),
    ),
    Metric(
        name="warm_compilers",
        kind="gauge",
        help="compilers that are kept imported",
        read=_count("warm_workers"),
    ),
    Metric(
        name="cache_entries",
        kind="gauge",
        help="libraries in the cache",
        read=_of_entries(0),
    ),
    Metric(
        name="cache_bytes",
        kind="gauge",
        help="what they take",
        read=_of_entries(1),
    ),
    Metric(
        name="cache_limit_bytes",
        kind="gauge",
        help="what they may take; 0 for no limit",
        read=_of_cache(lambda cache: cache.max_size),
    ),
    Metric(
        name="cache_leased",
        kind="gauge",
        help="libraries that processes use",
        read=_of_cache(lambda cache: cache.leased),
    ),
    Metric(
        name="cache_pinned", kind="gauge", help="libraries that are kept", read=_of_cache(lambda cache: cache.pinned)
    ),
    Metric(
        name="cache_stale",
        kind="gauge",
        help="libraries that no known model folder asks for",
        read=_of_cache(lambda cache: cache.stale),
    ),
    Metric(
        name="cache_excess_bytes",
        kind="gauge",
        help="by how much the cache stayed over its size, or its disk short of room, at the last collection",
        read=_of_cache(lambda cache: max(cache.over, cache.short)),
    ),
    Metric(name="host_cores", kind="gauge", help="cores that compiles may use", read=_one(lambda r: r.host.cores)),
    Metric(
        name="host_memory_bytes",
        kind="gauge",
        help="memory that compiles may use",
        read=_one(lambda r: r.host.memory_total),
    ),
    Metric(
        name="host_memory_available_bytes",
        kind="gauge",
        help="what is free of that",
        read=_one(lambda r: r.host.memory_available),
    ),
    Metric(name="host_gpus", kind="gauge", help="GPU devices that can be opened", read=_one(lambda r: r.host.gpus)),
    Metric(name="messages", kind="counter", help="messages that clients sent", read=_count("messages")),
    Metric(
        name="troubles",
        kind="counter",
        labels=("what",),
        read=_troubles,
        help="what went wrong in the daemon, or between it and clients: " + ", ".join(f"`{name}`" for name in TROUBLES),
    ),
    Metric(
        name="draining",
        kind="gauge",
        help="1 while the daemon ends",
        read=_one(lambda r: float(r.facts.draining)),
    ),
    Metric(
        name="start_time_seconds",
        kind="gauge",
        help="Unix time at which the daemon began",
        read=_one(lambda r: r.started),
    ),
    Metric(
        name="info",
        kind="gauge",
        labels=("version",),
        help="always 1; what runs",
        read=lambda reading: [((reading.version,), 1.0)],
    ),
)


def markdown(metrics: Iterable[Metric] = METRICS) -> str:
    """All of them as a table."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for each in metrics:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.full_name}` | {each.kind} | {labels} | {each.help} |")
    return "\n".join(rows) + "\n"
