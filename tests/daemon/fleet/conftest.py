from __future__ import annotations

import contextlib
import socket

import pytest

from harness.buckets import FaultyS3
from harness.hosts import Host

make_key = pytest.importorskip("mlc_jitd.fleet.keys", reason="the extra `fleet` is not installed").make_key


@pytest.fixture(scope="session", autouse=True)
def runtime_of_obstore():
    """Its threads and descriptors are made once for each process, and no test's leftovers."""
    with contextlib.suppress(ImportError):
        from mlc_jitd.fleet.objects import open_bucket

        open_bucket("memory:///").list("", most=1)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture
def host(place, start_daemon, client, mlc_jit):
    """Makes a host; keywords are variables of its processes."""

    def make(name: str, **variables: str) -> Host:
        return Host.make(name, place, start_daemon, client, mlc_jit, variables)

    return make


@pytest.fixture
def s3():
    """A small S3 server that fails on command."""
    with FaultyS3() as server:
        yield server


@pytest.fixture
def keys(place):
    """Makes a signing key; the variables of a builder with it, and of a reader that trusts it."""

    def make(name: str = "key") -> tuple[dict[str, str], dict[str, str]]:
        path = place.root / f"{name}.pem"
        public = make_key(path)
        return {"MLC_JITD_REMOTE_KEY": str(path)}, {"MLC_JITD_REMOTE_TRUST": public.text}

    return make
