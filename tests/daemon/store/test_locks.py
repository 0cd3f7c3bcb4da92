from __future__ import annotations

import time
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jitd.store import Store

KEY = "ab" * 32


def test_taken_is_taken(store: Store) -> None:
    one, two = store.lock(KEY), store.lock(KEY)
    assert one.acquire(0)
    assert one.held
    assert not two.acquire(0)
    assert not one.acquire(0)  # not re-entrant: it would let two threads in
    start = time.monotonic()
    assert not two.acquire(0.2, poll=0.01)
    assert 0.15 < time.monotonic() - start < 5
    one.release()
    one.release()
    assert not one.held
    assert two.acquire(0)
    two.release()


def test_keys_do_not_meet(store: Store) -> None:
    with store.lock(KEY):
        assert store.lock("cd" * 32).acquire(0)


def test_another_thread_may_release(store: Store) -> None:
    lock = store.lock(KEY)
    lock.acquire()
    thread = Thread(target=lock.release)
    thread.start()
    thread.join(5)
    with store.lock(KEY) as again:
        assert again.held


def test_an_endless_wait_ends_when_another_thread_releases(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held, waiting = store.lock(KEY), store.lock(KEY)
    held.acquire()
    tried, attempt = Event(), waiting._file._acquire
    monkeypatch.setattr(waiting._file, "_acquire", lambda: (attempt(), tried.set()))
    releaser = Thread(target=lambda: (tried.wait(10), held.release()))
    releaser.start()
    assert waiting.acquire(None, poll=0.01)
    releaser.join(5)
    waiting.release()


def test_it_is_released_when_the_body_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock(KEY):
        raise ZeroDivisionError
    assert store.lock(KEY).acquire(0)


def test_the_note_says_who(store: Store) -> None:
    lock = store.lock(KEY)
    assert lock.holder() == ""
    with lock:
        assert "process" in store.lock(KEY).holder()
    lock.path.write_text("[]")
    assert lock.holder() == ""


def test_a_link_in_the_place_of_a_lock_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    from mlc_jit.errors import StoreError

    victim = tmp_path / "victim"
    victim.write_text("precious")
    (store.layout.locks / KEY).symlink_to(victim)
    with pytest.raises(StoreError):
        store.lock(KEY).acquire(0)
    assert victim.read_text() == "precious"
