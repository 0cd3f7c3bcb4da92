"""Kernels in a bucket: whole, signed, and in few requests."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from mlc_jitd.fleet import packs
from mlc_jitd.fleet.guard import Guard
from mlc_jitd.fleet.keys import Trust, make_key, read_key
from mlc_jitd.fleet.objects import open_bucket
from mlc_jitd.fleet.pool import Pool
from mlc_jitd.fleet.signed import RefusedError
from mlc_jitd.fleet.tier import Tier
from mlc_jitd.identity.canonical import PART_NAMES, part
from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import objects

SCOPE = "5" * 32


@pytest.fixture
def key(tmp_path):
    make_key(tmp_path / "key.pem")
    return read_key(tmp_path / "key.pem")


@pytest.fixture
def bucket():
    return open_bucket("memory:///")


def made(*names: str) -> dict[str, bytes]:
    keys = {hashlib.sha256(name.encode()).hexdigest(): name.encode() * 100 for name in names}
    return {key: objects.encode(objects.Kernel(key, ("f",), 1.0, data)) for key, data in keys.items()}


def test_what_was_put_is_got(bucket, key):
    kernels = made("a", "b", "c")
    name = packs.put(bucket, SCOPE, kernels, key)
    assert packs.put(bucket, SCOPE, kernels, key) == name
    (meta,) = packs.listed(bucket, SCOPE, Trust((key.public,)))
    assert packs.get(bucket, meta.name, SCOPE, Trust((key.public,))).kernels == kernels
    assert packs.listed(bucket, SCOPE, Trust()) == []


@pytest.mark.parametrize("at", ["head", "payload", "rest", "cut", "scope", "signer"])
def test_what_was_changed_is_refused(bucket, key, tmp_path, at):
    name = packs.put(bucket, SCOPE, made("a", "b"), key)
    data = bytearray(bucket.get(name, most=1 << 20).data)
    trust, scope = Trust((key.public,)), SCOPE
    middle = data.index(b"\n\n")
    if at == "scope":
        scope = "6" * 32
    elif at == "signer":
        trust = Trust((make_key(tmp_path / "other.pem"),))
    elif at == "cut":
        del data[-1]
    else:
        data[{"head": middle - 20, "payload": middle + 30, "rest": len(data) - 5}[at]] ^= 1
    bucket.put(name, bytes(data))
    with pytest.raises(RefusedError):
        packs.get(bucket, name, scope, trust)


def test_many_packs_become_one(bucket, key):
    trust = Trust((key.public,))
    kernels = made(*map(str, range(packs.MANY)))
    for number, (each, data) in enumerate(kernels.items()):
        packs.put(bucket, SCOPE, {each: data}, key)
        merged = packs.merge(bucket, SCOPE, key, trust, lambda *_: None)
        assert merged == (packs.MANY if number == packs.MANY - 1 else 0)
    (meta,) = packs.listed(bucket, SCOPE, trust)
    assert packs.get(bucket, meta.name, SCOPE, trust).kernels == kernels


def test_hosts_share_kernels_and_ask_once(bucket, key, tmp_path):
    guard = Guard(bucket)
    stores = [KernelStore(tmp_path / name, limit=1 << 30) for name in ("build", "read")]
    tasks = []
    pools = [
        Pool(
            Tier("x", guard, None, trust=Trust((key.public,)), key=key, writes=True),
            store,
            lambda _w, t: tasks.append(t),
        )
        for store in stores
    ]
    identity = SimpleNamespace(parts=tuple(part(name, name) for name in PART_NAMES))
    kernels = made("a", "b")
    for each, data in kernels.items():
        assert stores[0].put(each, data)
    pools[0].share(identity, "build", tuple(kernels))
    for task in tasks:
        task()
    before = guard.counters["remote_requests"]
    for _ in range(3):
        pools[1].gather(identity, "build")
    assert guard.counters["remote_requests"] == before + 2, "one list, one pack"
    assert {each: stores[1].get(each) for each in kernels} == kernels
    assert stores[1].counters()["kernels_fetched"] == 2
    pools[1].gather(identity, "another build")
    assert guard.counters["remote_requests"] == before + 3


def test_a_kernel_that_is_not_whole_is_not_kept(tmp_path):
    store = KernelStore(tmp_path / "k", limit=1 << 30)
    ((name, data),) = made("a").items()
    assert not store.put(name, data[:-1])
    assert not store.put("0" * 64, data)
    assert not store.put("../evil", data)
    assert not [path for path in (tmp_path / "k").rglob("*") if path.is_file()]
    assert store.get(name) is None
