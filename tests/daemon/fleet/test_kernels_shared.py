"""Kernels through a bucket, really compiled: what one host compiled, another one with other overrides reuses."""

from __future__ import annotations

import json

import pytest

from harness.buckets import settings_of
from harness.configs import WITH_KERNELS
from harness.leftovers import until

pytestmark = [pytest.mark.tvm, pytest.mark.timeout(600)]


def test_a_host_that_begins_finds_the_kernels_of_the_others(host, s3, keys, place):
    pytest.importorskip("tvm")
    builder, reader = keys()
    build, read = (
        host(name, **settings_of(s3.endpoint), **role) for name, role in (("build", builder), ("read", reader))
    )
    for name, window in (("one", 256), ("two", 128)):
        (place.folder(name) / "mlc-chat-config.json").write_text(
            json.dumps(
                {**WITH_KERNELS, "model_config": {**WITH_KERNELS["model_config"], "context_window_size": window}}
            )
        )
    build.start()
    build.ask(place.root / "one").path(limit=300)
    until(lambda: bool(s3.names("fleet/v1/kernels")), what="the kernels in the bucket")
    (name,) = s3.names("fleet/v1/kernels")
    read.start()
    before = len(s3.requests)
    read.ask(place.root / "two").path(limit=300)
    record = read.manifest()["compile"]["kernels"]
    assert record["reused"] > 0.8 * record["total"]
    assert len([each for each in s3.requests[before:] if "kernels" in each]) == 2, "one list, one pack"
    assert read.status()["counters"]["kernels_fetched"] >= record["reused"]
    assert len(s3.objects[name]) < 1 << 20
