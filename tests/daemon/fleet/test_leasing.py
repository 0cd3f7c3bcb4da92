"""Leases of a real bucket (obstore's, in memory), as two hosts take, keep and await them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.buckets import settings_of
from harness.leftovers import until
from mlc_jitd.build import StopSignal
from mlc_jitd.elsewhere import Arriving
from mlc_jitd.fellows import Away, Came, NoLease
from mlc_jitd.fleet import held as held_module
from mlc_jitd.fleet.held import Held, place
from mlc_jitd.fleet.lease import Terms
from mlc_jitd.fleet.leasing import Leasing
from mlc_jitd.fleet.objects import DeniedError, FaultError, Objects, RemoteError, open_bucket
from mlc_jitd.fleet.record import Record
from mlc_jitd.fleet.reliance import Reliance, probe
from mlc_jitd.toolchains.base import Stage

pytest.importorskip("obstore")

KEY = "ab" * 32
IDENTITY: Any = SimpleNamespace(key=KEY)
TERMS = Terms(lease=1.0, first=0.02)


class Wrapped:
    """A bucket with a fault: ``calls`` maps a method to what it does instead."""

    def __init__(self, bucket: Objects) -> None:
        self.bucket = bucket
        self.calls: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return self.calls.get(name) or getattr(self.bucket, name)


class Fleet:
    """Hosts around one bucket; ``published`` is what they find there."""

    def __init__(self) -> None:
        self.bucket = open_bucket("memory:///")
        self.published: dict[str, str] = {}
        self.hosts: list[Leasing] = []

    def host(self, name: str, *, bucket: Any = None, writes: bool = True, terms: Terms = TERMS) -> Leasing:
        bucket = bucket or self.bucket
        reliance = Reliance(bucket)
        reliance.ask()

        def fetch(identity: Any, *, locked: bool, known: float = 0.0, told: Any = None) -> Any:
            if identity.key in self.published:
                told(Arriving("memory:///", 1_000_000, 4_000_000))
            return self.published.get(identity.key)

        found = Leasing(bucket, fetch, reliance, terms, host=name, writes=writes)
        self.hosts.append(found)
        return found

    def record(self, generation: int = 0) -> Record:
        return Record.decode(self.bucket.get(place(KEY, generation), most=4096).data)


@pytest.fixture
def fleet():
    found = Fleet()
    yield found
    for host in found.hosts:
        host.close()


def wait_in_a_thread(away: Away, stop: StopSignal | None = None) -> tuple[threading.Thread, list[Any], list[str]]:
    came: list[Any] = []
    said: list[str] = []
    thread = threading.Thread(
        target=lambda: came.append(away.wait(lambda stage: said.append(stage.detail), stop or StopSignal()))
    )
    thread.start()
    return thread, came, said


def test_one_takes_it_and_the_other_gets_what_it_made(fleet: Fleet) -> None:
    one, two = fleet.host("gpu-1"), fleet.host("gpu-2")

    lease = one.take(IDENTITY, StopSignal())
    assert isinstance(lease, Held)
    away = two.take(IDENTITY, StopSignal())
    assert isinstance(away, Away)
    lease.tell(Stage("llvm"))
    thread, came, said = wait_in_a_thread(away)
    until(lambda: any("gpu-1: llvm" in each for each in said))
    lease.made()
    with one.publishing(KEY) as may:
        assert may
        fleet.published[KEY] = "the library"
    thread.join(10)

    assert came == [Came("the library")]  # type: ignore[arg-type]
    assert said[-1] == "was compiled there: 1.0 of 4.0 MB from memory:///"
    assert two.counters()["lease_spared"] == 1
    assert one.counters()["lease_taken"] == 1


def test_a_holder_that_lives_is_waited_for_beyond_the_lease_time(fleet: Fleet) -> None:
    one, two = fleet.host("gpu-1"), fleet.host("gpu-2")
    one.take(IDENTITY, StopSignal())
    away = two.take(IDENTITY, StopSignal())
    assert isinstance(away, Away)

    thread, came, _ = wait_in_a_thread(away, stop := StopSignal())
    thread.join(2.5 * TERMS.lease)

    assert thread.is_alive()
    assert fleet.record().beat >= 4
    stop.stop("cancelled")
    thread.join(10)
    assert came == [None]


def test_a_holder_that_died_is_followed_by_the_next_generation(fleet: Fleet) -> None:
    two = fleet.host("gpu-2")
    fleet.bucket.put(place(KEY, 0), Record(owner="dead", host="gpu-1").encode())
    began = time.monotonic()

    away = two.take(IDENTITY, StopSignal())
    assert isinstance(away, Away)
    assert away.wait(lambda _stage: None, StopSignal()) is None
    lease = two.take(IDENTITY, StopSignal())

    assert isinstance(lease, Held)
    # The dead host was set to 30 s, and is believed up to four times this host's own.
    assert 4 * TERMS.silence <= time.monotonic() - began < 4 * TERMS.lease + 10
    assert fleet.record(1).host == "gpu-2"


def test_a_holder_that_was_frozen_learns_of_its_loss_before_it_publishes(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)
    one, two = fleet.host("gpu-1", bucket=wrapped), fleet.host("gpu-2")
    lease = one.take(IDENTITY, StopSignal())
    away = two.take(IDENTITY, StopSignal())

    def cut(*_: object, **__: object) -> None:
        raise FaultError("cut off")

    wrapped.calls.update(dict.fromkeys(["put", "get", "head", "list"], cut))
    assert isinstance(away, Away)
    assert away.wait(lambda _stage: None, StopSignal()) is None
    assert isinstance(two.take(IDENTITY, StopSignal()), Held)
    wrapped.calls.clear()
    lease.made()

    with one.publishing(KEY) as may:
        assert not may
    with two.publishing(KEY) as may:
        assert may
    assert one.counters()["lease_lost"] == 1


def test_a_compile_that_failed_is_tried_by_who_waited_without_a_lease(fleet: Fleet) -> None:
    one, two, three = fleet.host("gpu-1"), fleet.host("gpu-2"), fleet.host("gpu-3")
    lease = one.take(IDENTITY, StopSignal())
    away = two.take(IDENTITY, StopSignal())
    assert isinstance(away, Away)
    thread, came, _ = wait_in_a_thread(away)
    until(lambda: two.counters().get("lease_waits"))

    lease.end("failed")
    thread.join(10)

    assert came == [None]
    assert isinstance(two.take(IDENTITY, StopSignal()), NoLease)
    assert two.counters()["lease_without_failed_elsewhere"] == 1
    assert isinstance(three.take(IDENTITY, StopSignal()), Held), "who comes later tries under a lease"


def test_a_daemon_that_ends_gives_back_what_it_holds(fleet: Fleet) -> None:
    one, two = fleet.host("gpu-1"), fleet.host("gpu-2")
    one.take(IDENTITY, StopSignal())

    one.close()

    assert fleet.record().ended == "released"
    assert isinstance(two.take(IDENTITY, StopSignal()), Held)


def test_what_came_between_the_miss_and_the_lease_is_taken(fleet: Fleet) -> None:
    one = fleet.host("gpu-1")
    fleet.published[KEY] = "the library"

    assert one.take(IDENTITY, StopSignal()) == Came("the library")  # type: ignore[arg-type]
    until(lambda: fleet.record().ended == "published")


def test_a_second_try_of_the_same_host_waits_for_its_own_last_word(fleet: Fleet) -> None:
    one = fleet.host("gpu-1")
    lease = one.take(IDENTITY, StopSignal())
    assert isinstance(lease, Held)
    lease.end("released")

    assert isinstance(one.take(IDENTITY, StopSignal()), Held)
    assert fleet.record(1).host == "gpu-1"


def test_a_reader_waits_for_builders_and_holds_nothing(fleet: Fleet) -> None:
    reader, builder = fleet.host("reader", writes=False), fleet.host("builder")

    assert isinstance(reader.take(IDENTITY, StopSignal()), NoLease)
    builder.take(IDENTITY, StopSignal())
    assert isinstance(reader.take(IDENTITY, StopSignal()), Away)


def test_a_bucket_in_trouble_means_that_each_host_compiles(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)
    one = fleet.host("gpu-1", bucket=wrapped)

    def fail(*_: object, **__: object) -> None:
        raise FaultError("503")

    wrapped.calls["list"] = fail

    assert isinstance(one.take(IDENTITY, StopSignal()), NoLease)
    assert one.counters()["lease_without_store_fault"] == 1


def test_a_library_that_never_gets_into_the_bucket_frees_the_lease(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_module, "PUBLISH_SECONDS", 0.1)
    lease = fleet.host("gpu-1").take(IDENTITY, StopSignal())

    lease.made()

    until(lambda: fleet.record().ended == "released")


def test_an_upload_that_fails_frees_the_lease(fleet: Fleet) -> None:
    one = fleet.host("gpu-1")
    one.take(IDENTITY, StopSignal())

    with pytest.raises(FaultError), one.publishing(KEY):
        raise FaultError("full")

    until(lambda: fleet.record().ended == "released")


# --- what an engine allows ------------------------------------------------------------------------------------------


def test_an_engine_that_keeps_to_create_only_is_relied_on(fleet: Fleet) -> None:
    for _ in range(3):
        assert probe(fleet.bucket) == ("full", "")
    assert len(fleet.bucket.list("v1", most=10)) == 2, "nothing piles up, and nothing need be deleted"


def test_an_engine_that_overwrites_gets_no_leases(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)
    wrapped.calls["put"] = lambda name, data, **_: fleet.bucket.put(name, data)

    state, why = probe(wrapped)  # type: ignore[arg-type]

    assert state == "off"
    assert "If-None-Match" in why
    host = fleet.host("gpu-1", bucket=wrapped)
    assert isinstance(host.take(IDENTITY, StopSignal()), NoLease)
    assert host.counters()["lease_without_reliance"] == 1


def test_an_engine_that_overwrites_and_says_that_it_refused_gets_no_leases(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)

    def put(name: str, data: bytes, *, create: bool = False) -> str:
        try:
            return fleet.bucket.put(name, data, create=create)
        finally:
            fleet.bucket.put(name, data)

    wrapped.calls["put"] = put

    assert probe(wrapped)[0] == "off"  # type: ignore[arg-type]


def test_what_a_lying_engine_left_is_no_proof_for_a_better_one(fleet: Fleet) -> None:
    fleet.bucket.put("v1/leases-probe/once", b"second")

    assert probe(fleet.bucket)[0] == "off"


def test_an_engine_whose_listing_lags_gets_no_leases(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)
    wrapped.calls["list"] = lambda _prefix, **_: []

    assert probe(wrapped)[0] == "off"  # type: ignore[arg-type]


def test_a_host_that_may_not_write_waits_for_others(fleet: Fleet) -> None:
    wrapped = Wrapped(fleet.bucket)

    def deny(*_: object, **__: object) -> None:
        raise DeniedError("403")

    wrapped.calls["put"] = deny

    assert probe(wrapped)[0] == "watch"  # type: ignore[arg-type]


def test_an_engine_that_does_not_answer_is_asked_again_later(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = Wrapped(fleet.bucket)

    def fail(*_: object, **__: object) -> None:
        raise FaultError("away")

    wrapped.calls["put"] = fail
    reliance = Reliance(wrapped)  # type: ignore[arg-type]
    reliance.ask()
    assert (reliance.state, reliance.why) == ("off", "away")
    wrapped.calls.clear()
    reliance.ask()
    assert reliance.state == "off", "not at once"

    monkeypatch.setattr("mlc_jitd.fleet.reliance.AGAIN_SECONDS", 0.0)
    reliance.ask()

    assert reliance.state == "full"


def test_rclones_s3_server_ignores_if_none_match_and_gets_no_leases(
    place, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that is known to lie; where a later one does not, this says so."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None or b"serve s3" not in subprocess.run(
        [program, "serve", "s3", "--help"], capture_output=True, check=False
    ).stdout.replace(b"rclone ", b""):
        pytest.skip("no rclone here that can serve S3 (1.65 or later)")
    (place.folder("served") / "tier").mkdir()
    address = f"127.0.0.1:{unused_port}"
    with (place.root / "rclone.log").open("ab") as log:
        words = [program, "serve", "s3", "--addr", address, "--auth-key", "testkey,testsecret", place.root / "served"]
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for name, value in settings_of(f"http://{address}").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        bucket = open_bucket("s3://tier/fleet")
        until(lambda: _serves(bucket), what="rclone")
        state, why = probe(bucket)
    finally:
        server.terminate()
        server.wait(10)
    assert state == "off"
    assert "If-None-Match" in why


def _serves(bucket: Objects) -> bool:
    try:
        bucket.put("ready", b"")
    except RemoteError:
        return False
    return True
