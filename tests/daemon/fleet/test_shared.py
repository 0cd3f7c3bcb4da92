"""Hosts that share a bucket: compiled once, read everywhere, and believed only where somebody trusted signed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.buckets import BUCKET, FaultyS3, settings_of
from harness.leftovers import until

pytestmark = pytest.mark.timeout(90)  # several daemons one after another: seconds here, more on a full host


@pytest.fixture
def pair(host, s3, keys):
    """A builder and a reader that trusts it; both run."""
    builder, reader = keys()
    shared = settings_of(s3.endpoint)
    made = host("build", **shared, **builder), host("read", **shared, **reader)
    for each in made:
        each.start()
    return made


FOLLOWED = """
lines = []
found = jit(given["model"], {}, "cpu", on_progress=lambda each: lines.append(f"{each.stage} {each.detail}"))
print(json.dumps({"path": found.model_lib_path, "lines": lines}))
"""
"""A client that listens how far its library is."""


def written(s3: FaultyS3) -> bool:
    return bool(s3.names("fleet/v1/libraries"))


def asked_for_libraries(s3):
    """What the bucket heard, but for what a daemon asks of itself when it starts."""
    return [request for request in s3.requests if "leases-probe" not in request]


def test_what_one_host_compiled_another_reads(pair, s3, double):
    build, read = pair
    model = double.model()
    path = Path(build.ask(model).path())
    until(lambda: written(s3), what="the library in the bucket")
    for policy in ("READONLY", "ON"):
        got = Path(read.ask(model, MLC_JIT_POLICY=policy).path())
        assert got.parent == read.library
        assert got.read_bytes() == path.read_bytes()
    assert len(double.starts()) == 1
    assert read.manifest()["origin"].startswith(f"s3://{BUCKET}/fleet, signed by ")
    assert not build.manifest()["origin"]
    asked = asked_for_libraries(s3)
    read.ask(model).path()
    assert asked_for_libraries(s3) == asked, "a hit asks nobody"
    # No path of the builder's leaves it.
    assert not any(str(build.root).encode() in data or str(model).encode() in data for data in s3.objects.values())
    status = read.status()
    assert (status["remote"]["state"], status["remote"]["role"]) == ("ok", "reader")
    assert status["counters"]["remote_hits"] == 1
    assert build.status()["remote"]["role"] == "builder"
    assert "1 fetched" in read.command("status").stdout


def test_who_waits_is_told_how_far_it_is(pair, s3, double):
    build, read = pair
    model = double.model()
    build.ask(model).path()
    until(lambda: written(s3), what="the library in the bucket")
    said = read.command("compile", model, "--device", "cpu").stderr
    assert "fetching: 0.0 of " in said
    assert f" kB from s3://{BUCKET}/fleet" in said


def test_many_on_a_host_fetch_once_and_nobody_compiles(pair, s3, double, client):
    build, read = pair
    models = [double.model(f"m{number}", context_window_size=128 + number) for number in range(3)]
    for model in models:
        build.ask(model).path()
    until(lambda: len(s3.names("fleet/v1/libraries")) == 3, what="the libraries in the bucket")
    paths = client.fleet([model for model in models for _ in range(4)], **read.variables).paths(limit=60)
    assert len(set(paths)) == 3
    assert len(double.starts()) == 3
    assert read.status()["counters"]["remote_hits"] == 3


def test_without_a_daemon_the_bucket_is_used_all_the_same(host, s3, keys, double, client):
    builder, reader = keys()
    shared = settings_of(s3.endpoint)
    build, read = host("build", **shared, **builder), host("read", **shared, **reader)
    model = double.model()
    build.ask(model, **build.alone).path()
    until(lambda: written(s3), what="the library in the bucket")
    variables = {**read.variables, **read.alone, "MLC_JIT_POLICY": "READONLY"}
    said = client.code(FOLLOWED, variables, model=model).answer()
    assert Path(said["path"]).parent == read.library
    line = said["lines"][0]
    assert line.startswith("fetching 0.0 of ")
    assert line.endswith(f" kB from s3://{BUCKET}/fleet")
    assert len(double.starts()) == 1


def test_what_was_made_anew_replaces_what_the_same_key_signed(pair, s3, double):
    build, read = pair
    model = double.model()
    build.ask(model).path()
    until(lambda: written(s3), what="the library in the bucket")
    (name,) = s3.names("fleet/v1/libraries")
    before = s3.objects[name]
    build.ask(model, MLC_JIT_POLICY="REDO").path()
    until(lambda: s3.objects[name] != before, what="the new library in the bucket")
    read.ask(model).path()
    assert len(double.starts()) == 2


def test_what_should_not_be_believed_is_refused_named_and_compiled_here(pair, s3, double, host, keys, client):
    """Unsigned, wrongly signed, replayed, swapped, a stranger's, garbage: one model for each, all asked for at once."""
    build, read = pair
    models = [double.model(f"m{number}", context_window_size=100 + number) for number in range(7)]
    stranger = host("stranger", **settings_of(s3.endpoint, "theirs"), **keys("other")[0])
    stranger.start()
    libraries = client.fleet(models, **build.variables).paths(limit=60)
    stranger.ask(models[4]).path()
    until(lambda: len(s3.names("fleet/v1/libraries")) == 7, what="the libraries in the bucket")
    until(lambda: bool(s3.names("theirs/v1/libraries")), what="the stranger's library")
    names = [s3.names(f"fleet/v1/libraries/{Path(path).name[:64]}/")[0] for path in libraries]
    unsigned, changed, replayed, swapped, theirs, garbage, good = names
    s3.objects[unsigned] = b"mlc-jitd signed 1\nsigner -\nsignature -\nlength" + after(
        s3.objects[unsigned], b"\nlength"
    )
    s3.objects[changed] = s3.objects[changed].replace(b"context_window_size", b"context_window_sizf", 1)
    s3.objects[replayed] = s3.objects[good]
    blob = json.loads(after(s3.objects[swapped], b"\n\n"))["blob"]
    s3.objects[f"fleet/v1/blobs/{blob}"] = b"evil" + s3.objects[f"fleet/v1/blobs/{blob}"][4:]
    s3.objects[theirs] = s3.objects[s3.names("theirs/v1/libraries")[0]]
    s3.objects[garbage] = b"\x00" * 100
    before = len(double.starts())
    got = client.fleet(models, **read.variables).paths(limit=60)
    assert {Path(path).parent for path in got} == {read.library}
    assert len(double.starts()) == before + 6
    status, log = read.status(), read.log()
    # Each was looked at several times: by the miss, once the lease was had, and as what a lease said was published.
    assert status["counters"]["remote_refused"] == 6
    assert status["counters"]["remote_hits"] == 1
    for name, why in {
        unsigned: "signed by nobody",
        changed: "its signature is not one of the key",
        replayed: "library of another key",
        swapped: "was swapped",
        theirs: "which is not trusted here",
        garbage: "no signed text",
    }.items():
        lines = [line for line in log.splitlines() if f"{name.removeprefix('fleet/')} was refused" in line]
        assert len(lines) == 1, name
        assert why in lines[0]
    assert len(status["remote"]["refused"]) == 5
    # Where nothing may be compiled, the answer says why.
    fresh = host("fresh", **{**read.variables, "MLC_LLM_HOME": f"{read.root}/other"})
    assert "signed by nobody" in fresh.ask(models[0], MLC_JIT_POLICY="READONLY", **fresh.alone).error()["text"]


def after(data: bytes, mark: bytes) -> bytes:
    return data.split(mark, 1)[1]


def test_settings_that_mean_nothing_are_said_and_done_without(host, s3, double, place):
    lone = host("lone", **settings_of(s3.endpoint), MLC_JITD_REMOTE_KEY=f"{place.root}/missing.pem")
    lone.start()
    lone.ask(double.model()).path()
    status = lone.status()
    assert status["remote"]["state"] == "unusable"
    assert "missing.pem" in status["remote"]["detail"]
    assert "missing.pem" in lone.log()
    assert s3.requests == []


def test_nothing_of_it_is_imported_without_being_asked_for():
    code = (
        "import sys, mlc_jitd.app, mlc_jitd.once, mlc_jitd.__main__, mlc_jit;"
        "print([n for n in sys.modules if n.split('.')[0] in ('obstore', 'zstandard', 'cryptography')"
        " or n.startswith('mlc_jitd.fleet')])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_extra_a_daemon_says_so_and_serves(host, s3, double, place):
    hidden = place.folder("hidden")
    for name in ("obstore", "cryptography", "zstandard"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('hidden', name={name!r})")
    lone = host("lone", **settings_of(s3.endpoint), MLC_JITD_REMOTE_TRUST="anyone")
    lone.start(PYTHONPATH=str(hidden))
    lone.ask(double.model()).path()
    assert "not installed" in lone.status()["remote"]["detail"]
    assert "mlc-jitd[fleet]" in lone.log()
