"""Hosts that want the same at the same time: one compiles, the others wait for it, and nothing keeps them for long."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.buckets import Azurite, Seaweed, settings_of
from harness.leftovers import until
from mlc_jitd.observe.history import History

if TYPE_CHECKING:
    from harness.daemons import Client
    from harness.doubles import Double
    from harness.hosts import Host
    from mlc_jitd.observe.record import JobRecord

pytestmark = pytest.mark.timeout(120)  # several daemons: seconds here, more on a busy host

LEASE = 3.0
BUSY = 5.0
"""How much longer a wait may last on a busy host; a take-over that does not come in time takes longer."""


@pytest.fixture
def hosts(host, s3, keys):
    """Makes builders that share a bucket and trust each other; they run."""
    builder, _ = keys()

    def make(*names: str, **variables: str) -> list[Host]:
        shared = {**settings_of(s3.endpoint), "MLC_JITD_REMOTE_LEASE_SECONDS": str(LEASE), **builder, **variables}
        made = [host(name, **shared) for name in names]
        for each in made:
            each.start()
        return made

    return make


def job(host: Host) -> dict[str, Any]:
    jobs = host.status()["jobs"]
    return jobs[0] if jobs else {}


def one_and_who_waits(double: Double, one: Host, two: Host, **told: Any) -> tuple[Client, Client]:
    """Who asks the host that compiles, until the double's gate is there, and who asks the other one, which waits."""
    model = double.model("shared", {"wait_for": double.gate(), **told})
    first = one.ask(model)
    until(double.starts)
    second = two.ask(model)
    until(lambda: job(two).get("stage") == "elsewhere", what="who waits for the other host")
    return first, second


def counter(host: Host, name: str) -> int:
    return host.status()["counters"].get(name, 0)


def test_one_compiles_and_the_other_waits_without_cores_and_sees_how_far_it_is(hosts, double):
    one, two = hosts("one", "two", MLC_JITD_JOBS="1")
    first, second = one_and_who_waits(double, one, two)
    said = job(two)
    assert said["detail"].startswith(f"being compiled on {os.uname().nodename}: ")
    # Its only place is free for something else.
    other = two.ask(double.model("other", context_window_size=96))
    assert Path(other.path()).parent == two.library
    double.gate().touch()
    assert Path(first.path()).read_bytes() == Path(second.path()).read_bytes()
    assert len(double.starts()) == 2
    assert counter(two, "lease_spared") == 1
    assert counter(one, "lease_taken") == 1


def test_a_holder_that_is_killed_is_followed_after_the_lease_time(hosts, double, place):
    one, two = hosts("one", "two")
    asked, second = one_and_who_waits(double, one, two)
    asked.kill()
    one.daemons[0].kill()
    place.stale_sockets = True
    killed = time.monotonic()
    double.gate().touch()
    second.path(30)
    assert time.monotonic() - killed < 15 + LEASE  # the compile's own time, on a busy host
    assert len(double.starts()) == 2


def test_a_frozen_holder_that_wakes_does_not_publish(hosts, double, s3):
    one, two = hosts("one", "two")
    first, second = one_and_who_waits(double, one, two)
    os.kill(one.daemons[0].pid, signal.SIGSTOP)
    try:
        until(lambda: len(double.starts()) == 2, what="a successor")
        double.gate().touch()
        second.path(30)
        until(lambda: s3.names("fleet/v1/libraries"), what="the successor's library in the bucket")
        puts = [each for each in s3.requests if each.startswith("PUT") and "/libraries/" in each]
    finally:
        os.kill(one.daemons[0].pid, signal.SIGCONT)
    assert first.path(30)
    until(lambda: counter(one, "lease_lost") == 1)
    one.daemons[0].stop()
    assert [each for each in s3.requests if each.startswith("PUT") and "/libraries/" in each] == puts


def test_a_compile_that_fails_there_is_tried_here_at_once(hosts, double):
    one, two = hosts("one", "two")
    first, second = one_and_who_waits(double, one, two, exit=3)
    double.gate().touch()
    assert first.error(30)["error"] == "CompileError"
    assert second.error(30)["error"] == "CompileError"
    assert len(double.starts()) == 2
    assert counter(two, "lease_without_failed_elsewhere") == 1


def test_a_daemon_that_drains_hands_its_waiters_back_and_gives_up_what_it_holds(hosts, double):
    one, two = hosts("one", "two")
    model = double.model("shared", {"wait_for": double.gate()})
    one.ask(model)
    until(double.starts)
    second = two.ask(model)
    until(lambda: job(two).get("stage") == "elsewhere")
    began = time.monotonic()
    assert two.daemons[0].stop() == 0
    assert time.monotonic() - began < 10
    second.kill()  # the next daemon has its question, which nobody waits for any more
    one.daemons[0].process.send_signal(signal.SIGINT)
    one.daemons[0].process.wait(20)
    third = two.ask(model)
    until(lambda: len(double.starts()) == 2, what="the next holder, without waiting for the lease time")
    double.gate().touch()
    assert third.path(30)


def test_who_has_no_daemon_waits_for_the_fleet_too(hosts, double, s3):
    one, two = hosts("one", "two")
    model = double.model("shared", {"wait_for": double.gate()})
    first = one.ask(model)
    until(double.starts)
    second = two.ask(model, **two.alone)
    # Who holds a lease asks for the next generation and never for its own: it is the other that looks.
    until(
        lambda: sum(each.startswith("GET") and each.endswith("/00000000") for each in s3.requests) >= 2,
        what="who waits for the other host",
    )
    double.gate().touch()
    assert Path(first.path()).read_bytes() == Path(second.path(30)).read_bytes()
    assert len(double.starts()) == 1


def test_an_engine_that_ignores_if_none_match_gets_no_leases(hosts, double, s3):
    s3.conditional = False
    one, two = hosts("one", "two")
    model = double.model("shared", {"wait_for": double.gate()})
    first, second = one.ask(model), two.ask(model)
    until(lambda: len(double.starts()) == 2, what="each host's own compile")
    double.gate().touch()
    assert first.path()
    assert second.path()
    assert "If-None-Match" in one.status()["remote"]["leases"]
    assert "no leases: the engine overwrites" in one.command("status").stdout
    assert not s3.names("fleet/v1/leases/")


def test_a_bucket_that_dies_while_somebody_waits_costs_the_lease_time(hosts, double, s3):
    one, two = hosts("one", "two")
    first, second = one_and_who_waits(double, one, two)
    s3.kill()
    began = time.monotonic()
    until(lambda: len(double.starts()) == 2, what="a compile of its own")
    assert time.monotonic() - began < 25 + LEASE  # the start of a compile, on a busy host
    double.gate().touch()
    assert first.path(30)
    assert second.path(30)


KINDS = ["folder", "seaweed", "azurite"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fleet_under_fire(kind, place, host, keys, double, client):
    """Eight hosts, twelve configurations, kill -9 at random: compiled once each, but for those of a killed holder.

    And nobody waits for one holder longer than it compiles and the lease time.
    """
    lease = 1.5 * LEASE  # a holder is silent for two thirds of it when it counts as dead, and eight hosts are busy here
    builder, _ = keys()
    chance = random.Random(5)
    with contextlib.ExitStack() as stack:
        if kind == "seaweed":
            if Seaweed.program() is None:
                pytest.skip("no SeaweedFS (`weed`) on this machine")
            shared = settings_of(stack.enter_context(Seaweed(place.root / "weed")).endpoint)
        elif kind == "azurite":
            if Azurite.program() is None:
                pytest.skip("no Azurite (`npm install azurite`) on this machine")
            shared = stack.enter_context(Azurite(place.root / "azurite")).settings
        else:
            shared = {"MLC_JITD_REMOTE": f"file://{place.folder('bucket')}"}
        shared |= {"MLC_JITD_REMOTE_LEASE_SECONDS": str(lease), "MLC_JITD_JOBS": "1", "MLC_JITD_WARM": "off", **builder}
        hosts = [host(f"h{number}", **shared) for number in range(8)]
        for each in hosts:
            each.start()
        models = [double.model(f"m{number}", {"sleep": 0.3}, context_window_size=100 + number) for number in range(12)]
        fleets = []
        for each in hosts:
            wanted = chance.sample(models, len(models))
            fleets.append(client.fleet(wanted, **each.variables))
        killed = 0
        for each in chance.sample(hosts, 3):
            before = len(double.starts())
            until(lambda before=before: len(double.starts()) > before, 20, what="another compile")
            each.daemons[0].kill()
            killed += 1
        answers = [fleet.answer(90) for fleet in fleets]
        assert all("result" in each for answer in answers for each in answer), answers
        assert len(double.starts()) <= len(models) + killed, "compiled twice without a death"
        for each in hosts:
            verify(each, len(models))
        place.end_daemons()
        jobs = [job for each in hosts for job in History(each.library).jobs()]  # without a killed daemon's last
        waits = [[span.seconds for span in job.spans if span.name == "elsewhere"] for job in jobs]
        longest = max(took(job) for job in jobs if job.ending.outcome == "compiled")
        assert max(map(len, waits)) <= killed + 1, "waited for more holders than there were"
        assert any(waits), "somebody waited"
        for each in waits:
            assert max(each, default=0.0) <= lease + 2 * longest + BUSY, f"{each}, with compiles of {longest} s at most"


def took(job: JobRecord) -> float:
    """How long a compile had cores; its own stages are only a part of that."""
    return sum(span.seconds for span in job.spans if span.name not in ("queued", "elsewhere"))


def verify(host: Host, count: int) -> None:
    manifests = [json.loads(path.read_text()) for path in host.library.glob("*.json")]
    assert len(manifests) == count
    for each in manifests:
        data = (host.library / each["artifact"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == each["sha256"]
