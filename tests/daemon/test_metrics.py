"""Metrics: what a real scraper reads is right, complete and documented, and nobody who scrapes holds the daemon up."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from harness.daemons import status, until
from mlc_jit import jit
from mlc_jit.errors import CompileError, RequestError
from mlc_jitd import values
from mlc_jitd.metrics import endpoint
from mlc_jitd.metrics.catalog import METRICS, PREFIX, markdown
from mlc_jitd.metrics.meter import BOUNDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

PAGE = Path(__file__).parents[2] / "docs" / "seeing.md"


def ask(address: str | tuple[str, int], request: str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[str, str]:
    """The head and the body of an answer."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(request.encode())
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


def metered(start_daemon: Callable[..., Daemon], address: str) -> Daemon:
    """A daemon whose metrics are served: that comes a moment after it is ready."""
    daemon = start_daemon(MLC_JITD_METRICS=address)
    until(lambda: "metrics are served at" in daemon.log.read_text(), what="its metrics")
    return daemon


def sent_away(sock: socket.socket) -> bool:
    """Whether a connection ends without an answer."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:  # what it had sent was not read
        return True


def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_scrape_of_a_real_daemon(double: Double, start_daemon: Callable[..., Daemon], place: Place) -> None:
    path = str(place.root / "m.sock")
    metered(start_daemon, f"unix:{path}")
    good, bad = double.model("good"), double.model("bad", told={"raise": "no"}, vocab_size=3)
    for _ in range(3):
        jit(good, {}, "cpu")
    with pytest.raises(CompileError):
        jit(bad, {}, "cpu")
    head, body = ask(path)
    assert head.startswith("HTTP/1.1 200 OK")
    families = {family.name: family for family in plain(body)}
    for metric in METRICS:
        assert families[PREFIX + metric.name].type == metric.kind
        assert families[PREFIX + metric.name].documentation == metric.help
    found = samples(families.values())
    assert found["mlc_jitd_requests_total", "compiled", "absent"] == 1
    assert found["mlc_jitd_requests_total", "hit", ""] == 2
    assert sum(value for name, value in found.items() if name[:2] == ("mlc_jitd_requests_total", "refused")) == 1
    assert found["mlc_jitd_misses_total", "absent"] == 2
    assert found["mlc_jitd_jobs_ended_total", "compiled"] == found["mlc_jitd_jobs_ended_total", "failed"] == 1
    assert (
        found["mlc_jitd_job_seconds_count", "compiled"] == found["mlc_jitd_job_seconds_bucket", "+Inf", "compiled"] == 1
    )
    assert 0 < found["mlc_jitd_job_seconds_sum", "compiled"] < 15
    assert found["mlc_jitd_queue_seconds_count",] == 2
    assert found["mlc_jitd_lent_total",] == 1
    assert found["mlc_jitd_cache_entries",] == 1
    assert found["mlc_jitd_cache_leased",] == 1
    assert found["mlc_jitd_jobs", "running"] == found["mlc_jitd_jobs", "queued"] == 0
    assert found["mlc_jitd_host_memory_available_bytes",] > 0
    assert found["process_resident_memory_bytes",] > 1e7
    head, body = ask(path, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n")
    assert "application/openmetrics-text" in head
    assert samples(openmetrics(body))["mlc_jitd_requests_total", "compiled", "absent"] == 1
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_port_of_this_host_and_what_is_no_scrape(start_daemon: Callable[..., Daemon]) -> None:
    daemon = metered(start_daemon, "127.0.0.1:0")
    said = re.search(r"metrics are served at 127\.0\.0\.1:(\d+)", daemon.log.read_text())
    assert said is not None
    address = ("127.0.0.1", int(said[1]))
    assert ask(address)[0].startswith("HTTP/1.1 200 ")
    assert ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n")[1] == ""
    assert ask(address, "GET /../etc/passwd HTTP/1.1\r\n\r\n")[0].startswith("HTTP/1.1 404 ")
    assert ask(address, "POST /metrics HTTP/1.1\r\n\r\nx")[0].startswith("HTTP/1.1 405 ")
    assert ask(address, "\xff\x00 \r\n\r\n")[0].startswith("HTTP/1.1 405 ")
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        ask(address, "x" * 1_000_000)


def test_slow_scrapers_hold_nobody_up(double: Double, start_daemon: Callable[..., Daemon], place: Place) -> None:
    path = str(place.root / "m.sock")
    daemon = metered(start_daemon, f"unix:{path}")
    model = double.model()
    jit(model, {}, "cpu")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(endpoint.VISITORS + 2)]
    try:
        for each in silent:
            each.settimeout(10)
            each.connect(path)
            each.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert sent_away(silent[-1]), "no more than so many at a time"
        began = time.monotonic()
        for _ in range(100):
            jit(model, {}, "cpu")
        assert time.monotonic() - began < 5, "100 hits, while everybody is waited for"
        assert status().pid == daemon.pid
        assert sent_away(silent[0]), "its time is over"
        until(lambda: ask(path)[0].startswith("HTTP/1.1 200 "))
    finally:
        for each in silent:
            each.close()


def test_a_daemon_ends_though_somebody_scrapes(start_daemon: Callable[..., Daemon], place: Place) -> None:
    path = place.root / "m.sock"
    daemon = metered(start_daemon, f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < endpoint.VISIT_SECONDS
    assert not path.exists()


def test_a_file_for_node_exporter(start_daemon: Callable[..., Daemon], place: Place) -> None:
    path = place.root / "mlc.prom"
    daemon = start_daemon(MLC_JITD_METRICS_TEXTFILE=str(path))
    until(path.exists)
    assert samples(plain(path.read_text()))["mlc_jitd_cache_entries",] == 0
    assert daemon.stop() == 0
    assert not path.exists(), "no values that nobody keeps up"


def test_an_address_that_is_taken_costs_the_metrics_alone(
    double: Double, start_daemon: Callable[..., Daemon], place: Place
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        daemon = start_daemon(MLC_JITD_METRICS=f"127.0.0.1:{taken.getsockname()[1]}")
        jit(double.model(), {}, "cpu")
        until(lambda: "nothing can listen there" in daemon.log.read_text())


def test_a_socket_file_that_is_none_is_left_alone(place: Place) -> None:
    (place.root / "file").write_text("precious")
    with pytest.raises(RequestError, match="nothing can listen"):
        endpoint.listen(f"unix:{place.root / 'file'}")
    assert (place.root / "file").read_text() == "precious"


def test_where_they_are_off_nothing_of_them_is_imported() -> None:
    code = "import sys, mlc_jitd.app; print([m for m in sys.modules if 'prometheus' in m or 'mlc_jitd.metrics' in m])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_metric_is_documented_and_named_as_prometheus_wants() -> None:
    assert markdown() in PAGE.read_text(), "run `make docs`"
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (3600, 16), (1e9, 17)])
def test_a_bucket_has_what_is_at_most_its_bound(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert histogram.buckets.index(1) == bucket
    assert len(histogram.buckets) == len(BOUNDS) + 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("", ""), ("9464", "127.0.0.1:9464"), ("localhost:1", "127.0.0.1:1"), ("[::1]:80", "[::1]:80"),
     ("127.0.0.9:5", "127.0.0.9:5"), ("unix:/run/m.sock", "unix:/run/m.sock")],
)  # fmt: skip
def test_addresses(text: str, value: str) -> None:
    assert values.ADDRESS.read(text) == value


@pytest.mark.parametrize(
    "text", ["0.0.0.0:9464", "10.0.0.1:80", "example.org:80", "unix:m", "x", "127.0.0.1:99999", "[::]:1"]
)
def test_addresses_that_others_could_reach_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="an address of this host alone"):
        values.ADDRESS.read(text)
