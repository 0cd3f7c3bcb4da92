"""How far a library is that comes from a bucket: counted where the bytes come, told to all who wait for it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_jitd.elsewhere import Arriving, Fetched
from mlc_jitd.fleet.fetcher import Fetcher
from mlc_jitd.fleet.guard import Guard
from mlc_jitd.fleet.objects import open_bucket

pytest.importorskip("obstore")

IDENTITY: Any = SimpleNamespace(key="ab" * 32)


def test_a_body_tells_how_many_of_its_bytes_have_come(tmp_path):
    bucket = Guard(open_bucket(f"file://{tmp_path}"))
    bucket.put("blob", bytes(5 << 20))
    told: list[int] = []
    assert len(bucket.get("blob", most=5 << 20, told=told.append).data) == 5 << 20
    assert told[-1] == 5 << 20
    assert len(told) >= 3
    assert told == sorted(told)


def test_all_who_wait_hear_it_also_who_came_later():
    half, late = threading.Event(), threading.Event()
    heard: dict[str, list[str]] = {"one": [], "two": []}
    done: list[Fetched] = []

    class Elsewhere:
        def fetch(self, _identity: Any, *, told: Any, **_: Any) -> Fetched:
            told(Arriving("s3://bucket", 0, 4_000_000))
            half.set()
            assert late.wait(10)
            told(Arriving("s3://bucket", 3_000_000, 4_000_000))
            return Fetched()

        def counters(self) -> dict[str, int]:
            return {}

    fetcher = Fetcher(Elsewhere())
    fetcher.fetch(IDENTITY, done.append, lambda each: heard["one"].append(each.words))
    assert half.wait(10)
    fetcher.fetch(IDENTITY, done.append, lambda each: heard["two"].append(each.words))
    late.set()
    fetcher._threads.shutdown(wait=True)
    assert len(done) == 2
    assert heard == {
        "one": ["0.0 of 4.0 MB from s3://bucket", "3.0 of 4.0 MB from s3://bucket"],
        "two": ["3.0 of 4.0 MB from s3://bucket"],
    }


def test_a_fraction_is_never_the_whole_and_needs_no_size():
    assert Arriving("x", 10, 10).fraction == 0.99
    assert Arriving("x", 0, 0).fraction == 0.0
