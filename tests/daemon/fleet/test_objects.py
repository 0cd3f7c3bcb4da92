"""The door to object stores: declared errors only, whatever engine is behind it."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="the extra `fleet` is not installed")

from typing import TYPE_CHECKING

from mlc_jitd.fleet.objects import (
    AbsentError,
    Bucket,
    ChangedError,
    DeniedError,
    ExistsError,
    FaultError,
    Limits,
    RemoteError,
    TooLongError,
    UnsupportedError,
    open_bucket,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(90)  # the first test waits for the servers


@pytest.fixture(scope="module", autouse=True)
def _begun(servers):
    """Before the first test."""


@pytest.fixture
def bucket(engine, monkeypatch) -> Iterator[Bucket]:
    for name, value in engine.items():
        monkeypatch.setenv(name, value)
    found = open_bucket(engine["MLC_JITD_REMOTE"])
    yield found
    found._store = None  # its connections end with it, whoever still knows the bucket


def test_what_was_put_is_got_listed_and_deleted(bucket):
    bucket.put("a/b/one", b"1")
    bucket.put("a/b/two", b"22")
    bucket.put("a/bc", b"333")
    assert bucket.get("a/b/two", most=2).data == b"22"
    assert [(each.name, each.size) for each in bucket.list("a/b", most=2)] == [("a/b/one", 1), ("a/b/two", 2)]
    assert bucket.list("nothing", most=0) == []
    assert bucket.head("a/bc").size == 3
    bucket.delete(["a/b/one", "never/was"])
    assert [each.name for each in bucket.list("", most=9)] == ["a/b/two", "a/bc"]
    assert [each.name for each in bucket.list("a", most=9, after="a/b/two")] == ["a/bc"]


def test_what_is_not_there_is_absent(bucket):
    for call in (lambda: bucket.get("no", most=1), lambda: bucket.head("no")):
        with pytest.raises(AbsentError, match="no"):
            call()


def test_create_only_has_one_winner(bucket):
    bucket.put("lease", b"first", create=True)
    with pytest.raises(ExistsError):
        bucket.put("lease", b"second", create=True)
    assert bucket.get("lease", most=9).data == b"first"


def test_another_version_is_not_replaced(bucket):
    tag = bucket.put("it", b"1")
    try:
        bucket.put("it", b"2", tag=tag)
    except UnsupportedError:
        pytest.skip("this engine has no compare-and-swap")
    with pytest.raises(ChangedError):
        bucket.put("it", b"3", tag=tag)
    assert bucket.get("it", most=9).data == b"2"


def test_more_than_allowed_is_refused(bucket):
    bucket.put("long", b"x" * 100)
    with pytest.raises(TooLongError):
        bucket.get("long", most=99)
    bucket.put("longer", b"x")
    with pytest.raises(TooLongError):
        bucket.list("", most=1)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3", "", "s3://", "file//x"])
def test_an_address_that_means_nothing_says_so(url):
    with pytest.raises(RemoteError):
        open_bucket(url)


def test_nobody_listening_is_a_fault_and_fast(monkeypatch, unused_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bucket = open_bucket("s3://bucket/prefix", Limits(seconds=2, connect=1, stall=1))
    with pytest.raises(FaultError) as caught:
        bucket.put("x", b"1")
    assert not isinstance(caught.value, DeniedError)
