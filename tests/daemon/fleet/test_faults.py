"""A bucket in trouble: hosts go on for themselves, in time, and a hit does not notice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.buckets import Fault, settings_of
from harness.leftovers import until

pytestmark = pytest.mark.timeout(120)  # several daemons: seconds here, more on a full host

FAULTS = {
    "forbidden": Fault(status=403),
    "conflict": Fault(status=409),
    "precondition": Fault(status=412),
    "broken": Fault(status=500),
    "torn": Fault(torn=True),
    "wrong": Fault(wrong=True),
    "full": Fault(status=507, methods=("PUT",)),
    "slow": Fault(seconds=10.0),
}


@pytest.fixture
def shared(host, s3, keys, double, client):
    """A builder whose libraries are in the bucket, a reader and builder that has none, and their models."""
    builder, reader = keys()
    # Where what is read is wrong, a lease is held by who says nothing, and dies in time.
    both = {**settings_of(s3.endpoint), **builder, **reader, "MLC_JITD_REMOTE_LEASE_SECONDS": "6"}
    build, other = host("build", **both), host("other", **both)
    other.constants = {"mlc_jitd.fleet.patience.PAUSE_SECONDS": 0.5}
    models = [double.model(f"m{number}", context_window_size=100 + number) for number in range(len(FAULTS) + 2)]
    build.start()
    client.fleet(models, **build.variables).paths(limit=60)
    until(lambda: len(s3.names("fleet/v1/libraries")) == len(models), what="the libraries in the bucket")
    build.daemons[0].stop()
    other.start()
    return other, models


def test_whatever_the_bucket_does_libraries_are_had_and_hits_are_quick(shared, s3, double):
    other, models = shared
    fetched = other.ask(models[0]).answer()
    assert len(double.starts()) == len(models)
    assert fetched["seconds"] < 15
    for model, (name, fault) in zip(models[1:], FAULTS.items(), strict=False):
        before = len(double.starts())
        s3.fault = fault
        began = time.monotonic()
        assert Path(other.ask(model).path(limit=60)).parent == other.library, name
        # Four questions that get no answer, for 5 s each, and a compile on a busy host.
        assert time.monotonic() - began < 40, name
        # What can be read is read, however little can be written.
        assert len(double.starts()) == before + (name != "full"), name
        hit = other.code_hits(model)
        assert hit < 0.1, (name, hit)
        s3.fault = Fault()
        until(lambda: other.status()["remote"]["state"] == "ok", 20, what=f"the bucket to be asked again after {name}")
    s3.kill()
    began = time.monotonic()
    assert Path(other.ask(models[-1]).path(limit=30)).parent == other.library
    assert time.monotonic() - began < 20
    counters = other.status()["counters"]
    assert "failures" not in counters
    assert counters["remote_denied"] >= 1
    assert counters["remote_faults"] >= 4
    assert counters["remote_refused"] >= 1


def test_a_dead_bucket_is_left_alone_and_tried_again(host, keys, double, s3):
    builder, _ = keys()
    lone = host("lone", **settings_of(s3.endpoint), **builder)
    lone.start()
    s3.kill()
    for number in range(3):
        lone.ask(double.model(f"m{number}", context_window_size=100 + number)).path()
    status = lone.status()
    assert status["remote"]["state"] == "away"
    assert status["remote"]["again"] > 0
    assert status["counters"]["remote_skipped"] >= 1
    assert "away" in lone.command("status").stdout
    s3.resume()
    until(lambda: lone.status()["remote"]["state"] == "ok", 20, what="the bucket to be found again")
    lone.ask(double.model("last", context_window_size=99)).path()
    until(lambda: len(s3.names("fleet/v1/libraries")) >= 1, 20, what="the library in the bucket")


def test_a_daemon_that_ends_writes_what_waits_and_not_for_long(host, keys, double, s3):
    builder, _ = keys()
    lone = host("lone", **settings_of(s3.endpoint), **builder)
    lone.constants = {"mlc_jitd.fleet.writer.FLUSH_SECONDS": 4.0}
    daemon = lone.start()
    lone.ask(double.model()).path()
    daemon.stop()
    assert len(s3.names("fleet/v1/libraries")) == 1
    assert len(s3.names("fleet/v1/uses")) == 1
    daemon = lone.start()
    s3.fault = Fault(seconds=60.0)
    lone.ask(double.model("next", context_window_size=99)).path(limit=30)
    began = time.monotonic()
    assert daemon.stop(limit=30) == 0
    assert time.monotonic() - began < 24
    s3.fault = Fault()
