"""Hosts as network namespaces with addresses of their own: one is cut off while it holds a lease."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.buckets import FaultyS3, settings_of
from harness.daemons import Daemon
from harness.leftovers import until

if TYPE_CHECKING:
    from harness.hosts import Host

pytestmark = pytest.mark.timeout(120)

LEASE = "2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@pytest.fixture
def networks():
    """Two namespaces, each with a cable to this one; by name, the address of this end."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("network namespaces need root, ip and nsenter")
    made: dict[str, str] = {}
    try:
        for number in (1, 2):
            name = f"mj{os.getpid() % 100000}n{number}"
            subnet = f"10.{213 + number}.{os.getpid() % 250}"
            ip("netns", "add", name)
            made[name] = f"{subnet}.1"
            ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
            ip("addr", "add", f"{subnet}.1/30", "dev", f"{name}a")
            ip("link", "set", f"{name}a", "up")
            ip("-n", name, "addr", "add", f"{subnet}.2/30", "dev", f"{name}b")
            ip("-n", name, "link", "set", f"{name}b", "up")
    except subprocess.CalledProcessError as error:
        for name in made:
            ip("netns", "del", name)
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield made
    for name in made:
        ip("netns", "del", name)


def start_in(network: str, host: Host) -> None:
    """Start the daemon of a host inside a network."""
    log = host.root / "daemon.log"
    with log.open("ab") as sink:
        words = ["nsenter", f"--net=/run/netns/{network}", sys.executable, "-P", "-m", "mlc_jitd", "run"]
        environment = {**os.environ, **host.variables}
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", env=environment)
    host.daemons.append(Daemon(process, log))
    until(lambda: "serves" in log.read_text(), 30, what="a daemon in its network")


def stage(host: Host) -> str:
    jobs = host.status()["jobs"]
    return jobs[0]["stage"] if jobs else ""


def test_a_holder_that_is_cut_off_is_followed_and_does_not_publish(networks, host, keys, double):
    builder, _ = keys()
    cut, other = networks
    with FaultyS3(host="0.0.0.0") as s3:
        one, two = (
            host(
                name,
                **settings_of(f"http://{networks[network]}:{s3.port}"),
                **builder,
                MLC_JITD_REMOTE_LEASE_SECONDS=LEASE,
            )
            for name, network in (("one", cut), ("two", other))
        )
        start_in(cut, one)
        start_in(other, two)
        model = double.model("shared", {"wait_for": double.gate()})
        first = one.ask(model)
        until(double.starts)
        second = two.ask(model)
        until(lambda: stage(two) == "elsewhere", what="who waits for the other host")
        ip("link", "set", f"{cut}a", "down")
        until(lambda: len(double.starts()) == 2, 30, what="a successor")
        double.gate().touch()
        assert second.path(30)
        assert first.path(30), "who asked there has its library all the same"
        until(lambda: s3.names("fleet/v1/libraries"), what="the successor's library in the bucket")
        ip("link", "set", f"{cut}a", "up")
        for each in (one, two):
            each.daemons[0].stop(limit=60)
        puts = [each for each in s3.requests if each.startswith("PUT") and "/libraries/" in each]
        assert len(puts) == 1
        generations = s3.names("fleet/v1/leases/")
        assert len(generations) == 2
        assert b'"ended":"published"' in s3.objects[generations[1]]
