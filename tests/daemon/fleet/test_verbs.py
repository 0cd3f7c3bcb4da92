"""`mlc-jit remote` and `prewarm --remote`, on the local-folder backend."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(90)  # a dozen commands one after another


@pytest.fixture
def pair(host, keys, place):
    builder, reader = keys()
    url = {"MLC_JITD_REMOTE": f"file://{place.root}/bucket"}
    build = host("build", **url, **builder, MLC_JITD_REMOTE_WRITE="never")
    return build, host("read", **url, **reader)


def test_pushed_listed_verified_pulled_and_collected(pair, double, place):
    build, read = pair
    bucket = place.root / "bucket"
    models = [double.model(f"m{number}", context_window_size=100 + number) for number in range(2)]
    for model in models:
        build.ask(model).path()
    assert not list(bucket.glob("v1/libraries/*")), "remote_write = never: nothing goes by itself"
    done = build.command("remote", "push", "--all")
    assert (done.returncode, done.stdout.count("written  ")) == (0, 2), done
    assert build.command("remote", "push", "--all").stdout.count("there    ") == 2
    shown = read.command("remote", "ls").stdout
    assert "2 libraries in file://" in shown
    assert "llama" in shown
    rows = json.loads(read.command("remote", "ls", "--json").stdout)["libraries"]
    first, second = (each["key"] for each in rows)
    assert read.command("remote", "verify").stdout.endswith("nothing is wrong.\n")
    assert "pulled" in read.command("remote", "pull", first).stdout
    assert [path.name[:64] for path in read.artifacts()] == [first]
    # Damage in the bucket is found, refused and mended by who builds.
    blob = next(bucket.glob("v1/blobs/*"))
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    wrong = read.command("remote", "verify")
    assert wrong.returncode == 1
    assert "was swapped" in " ".join(wrong.stdout.split())
    assert read.command("remote", "verify", "--quick").returncode == 0
    assert build.command("remote", "push", "--all", "--again").returncode == 0
    assert read.command("remote", "verify").returncode == 0
    # What nobody used for long goes; a use keeps it.
    long_ago = time.time() - 100 * 86_400
    for path in bucket.glob("v1/*/**/*"):
        os.utime(path, (long_ago, long_ago))
    day = time.strftime("%Y-%m-%d", time.gmtime())
    (bucket / "v1/uses" / day).mkdir(parents=True, exist_ok=True)
    (bucket / "v1/uses" / day / second).touch()
    # Generations of leases that ended go after a day; one that is held is written anew all the time.
    leases = bucket / "v1/leases" / second
    leases.mkdir(parents=True)
    for number, age in enumerate((3 * 86_400, 2 * 86_400, 3600)):
        (leases / f"{number:08d}").write_text("{}")
        os.utime(leases / f"{number:08d}", (time.time() - age,) * 2)
    dry = build.command("remote", "gc", "--dry-run")
    assert f"would go {first[:12]}" in dry.stdout
    assert len(list(bucket.glob("v1/libraries/*/*"))) == 2
    assert len(list(leases.iterdir())) == 3
    said = " ".join(build.command("remote", "gc").stdout.split())
    assert "of leases: 2" in said
    assert said.endswith("Left: 1 library.")
    assert [path.name for path in leases.iterdir()] == ["00000002"]
    assert [path.parent.name for path in bucket.glob("v1/libraries/*/*")] == [second]
    assert len(list(bucket.glob("v1/blobs/*"))) == 1
    assert read.command("remote", "verify").returncode == 0


def test_a_build_is_in_the_bucket_when_prewarm_says_so(pair, double, place):
    build, read = pair
    model = double.model()
    done = build.command("prewarm", model, "--device", "cpu", "--remote", "--no-daemon", "--quiet")
    assert done.returncode == 0, done
    assert Path(read.ask(model, MLC_JIT_POLICY="READONLY", **read.alone).path()).parent == read.library
    assert len(double.starts()) == 1
    # A host that may not write fails, and says why.
    failed = read.command("prewarm", model, "--device", "cpu", "--remote", "--no-daemon", "--quiet")
    assert failed.returncode != 0
    assert "remote_key" in failed.stdout + failed.stderr


def test_a_key_is_made_once_and_only_its_owner_reads_it(pair, place):
    build, _ = pair
    file = place.root / "new.pem"
    done = build.command("remote", "keygen", file)
    assert done.returncode == 0, done
    public = Path(f"{file}.pub").read_text().strip()
    assert public in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    again = build.command("remote", "keygen", file)
    assert again.returncode != 0
    assert "exists" in again.stderr.lower()
    file.chmod(0o644)
    refused = build.command("remote", "ls", MLC_JITD_REMOTE_KEY=str(file))
    assert "chmod 600" in refused.stderr


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["ls"], {"MLC_JITD_REMOTE": ""}, "No bucket is set"),
        (["push"], {}, "No library is named"),
        (["pull", "abc"], {}, "No library of the bucket"),
        (["ls", "--again"], {}, "--again belongs to"),
        (["ls"], {"MLC_JITD_REMOTE_TRUST": "nonsense"}, "no public key"),
    ],
)
def test_what_can_not_be_done_is_said(pair, words, variables, said):
    done = pair[1].command("remote", *words, **variables)
    assert done.returncode != 0
    assert said in done.stderr
