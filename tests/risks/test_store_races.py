"""Risk: readers, writers, sweeps and lock holders at the same time, in many processes and threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jitd.store import About, Entry, Found, Store, ToolchainRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("store_child.py")
KEY = "ab" * 32
ABOUT = About(suffix="so", toolchain=ToolchainRecord(name="double"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    store.open()
    return store


def publish(store: Store, content: bytes, key: str = KEY) -> Entry:
    with store.lock(key), store.staging(key, need=0) as folder:
        (folder / "lib.so").write_bytes(content)
        return store.publish(key, folder / "lib.so", ABOUT)


@contextmanager
def child(verb: str, store: Store, *args: str, until: str = "") -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, str(CHILD), verb, str(store.layout.home), *args]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if until:
                assert process.stdout is not None
                assert process.stdout.readline().strip() == until
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> object:
    output, _ = process.communicate("x", timeout=40)
    assert process.returncode == 0
    return json.loads(output)


def test_readers_never_see_a_part_while_a_writer_publishes_and_redoes(store: Store) -> None:
    with ExitStack() as stack:
        readers = [stack.enter_context(child("hammer", store, until="ready")) for _ in range(3)]
        end = time.monotonic() + 3
        number = 0
        while time.monotonic() < end:
            number += 1
            publish(store, bytes([number % 7]) * (200_000 + number % 7))
        for reader in readers:
            counts = answer(reader)
            assert isinstance(counts, dict)
            assert counts.keys() <= {"absent", "whole"}
            assert counts["whole"] > 0
    assert number > 7
    assert store.counters()["identical"] > 0


def test_processes_that_move_damage_away_never_take_a_good_entry(store: Store) -> None:
    publish(store, b"0" * 1000)
    with ExitStack() as stack:
        judges = [stack.enter_context(child("hammer", store, "judge", until="ready")) for _ in range(2)]
        end = time.monotonic() + 3
        while time.monotonic() < end:
            entry = publish(store, os.urandom(50_000))
            assert isinstance(store.find(KEY), Found)
            Path(entry.path).chmod(0o644)
            os.truncate(entry.path, 5)
            store.find(KEY)
        publish(store, b"1" * 1000)
        answers = [answer(judge) for judge in judges]
    for counts in answers:
        assert isinstance(counts, dict)
        assert counts.keys() <= {"absent", "damaged", "found"}
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert Path(found.entry.path).read_bytes() == b"1" * 1000
    taken = store.layout.quarantine.glob("*/*.so")
    assert {path.stat().st_size for path in taken} == {5}


def test_a_process_that_mapped_the_old_library_keeps_it_through_redo(store: Store) -> None:
    entry = publish(store, b"old" * 100_000)
    with child("map", store, until="mapped") as process:
        anew = publish(store, b"new" * 10)
        assert anew.path != entry.path
        publish(store, b"old" * 100_000)
        before, after = answer(process)  # type: ignore[misc]
        assert before == after == entry.manifest.sha256
    assert Path(anew.path).exists()


def test_a_redo_with_the_same_bytes_does_not_touch_the_file(store: Store) -> None:
    entry = publish(store, b"same" * 100)
    before = Path(entry.path).stat()
    again = publish(store, b"same" * 100)
    assert again.path == entry.path
    after = Path(entry.path).stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert not store.unchanged(entry)
    assert again.manifest_stamp != entry.manifest_stamp


def test_two_processes_never_hold_one_lock(store: Store) -> None:
    with child("contend", store, "60", until="ready") as one, child("contend", store, "60", until="ready") as two:
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("x")
            process.stdin.flush()
        assert answer(one) == "done"
        assert answer(two) == "done"


def test_threads_never_hold_one_lock_with_their_own_objects_or_a_shared_one(store: Store) -> None:
    shared = store.lock(KEY)
    inside: list[int] = []
    overlaps: list[int] = []

    def work(number: int) -> None:
        for turn in range(10):
            lock = shared if (turn + number) % 2 else store.lock(KEY)
            assert lock.acquire(15, poll=0.001)
            inside.append(number)
            if len(inside) > 1:
                overlaps.append(number)
            time.sleep(0.0005)
            inside.remove(number)
            lock.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert overlaps == []
    assert not any(thread.is_alive() for thread in threads)


def test_kill_9_of_the_holder_releases_its_lock_and_leaves_its_staging_to_the_next_start(store: Store) -> None:
    lock = store.lock(KEY)
    with child("hold", store, until="held") as process:
        assert not lock.acquire(0)
        assert f"process {process.pid} " in lock.holder()
        assert store.open().staging == 0  # alive: its build is left alone
        assert len(list(store.layout.staging.iterdir())) == 2
        process.send_signal(signal.SIGKILL)
        assert lock.acquire(10, poll=0.01)
        lock.release()
    assert store.open().staging == 1
    assert list(store.layout.staging.iterdir()) == []


def test_sweeps_never_take_a_living_build(store: Store) -> None:
    with ExitStack() as stack:
        for process in [stack.enter_context(child("churn", store, "40")) for _ in range(3)]:
            assert answer(process) == 40
    assert list(store.layout.staging.iterdir()) == []


def test_many_threads_hash_an_entry_once(store: Store) -> None:
    publish(store, b"x" * 3_000_000)
    fresh = Store(store.layout.home, clock=lambda: time.time() + 60)
    fresh.open()
    gate = threading.Barrier(8)
    found: list[object] = []

    def ask() -> None:
        gate.wait(10)
        found.append(fresh.find(KEY))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [type(answer) for answer in found] == [Found] * 8
    assert fresh.counters()["hashed"] == 1


@pytest.mark.parametrize("writable", [True, False])
def test_a_switch_between_the_two_files_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, writable: bool
) -> None:
    entry = publish(store, b"old")
    reader = Store(store.layout.home)
    reader.open(writable=writable)
    finder = reader._finder
    real = finder._artifact
    turns = []

    def switch(*args: Any) -> object:
        if not turns:
            publish(store, b"new")
            Path(entry.path).unlink()  # as a collector would
        turns.append(1)
        return real(*args)

    monkeypatch.setattr(finder, "_artifact", switch)
    found = reader.find(KEY)
    assert isinstance(found, Found)
    assert Path(found.entry.path).read_bytes() == b"new"
    assert "quarantined" not in reader.counters()
    assert len(turns) == 2


def test_an_entry_made_anew_between_the_verdict_and_the_move_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(publish(store, b"old").path).unlink()
    reader = Store(store.layout.home)
    reader.open()
    turns = []

    def just_before_the_move() -> bool:
        if not turns:
            publish(store, b"new")
        turns.append(1)
        return True

    monkeypatch.setattr(reader._finder, "_writable", just_before_the_move)
    found = reader.find(KEY)
    assert isinstance(found, Found)
    assert Path(found.entry.path).read_bytes() == b"new"
    assert turns == [1]
    assert list(store.layout.quarantine.iterdir()) == []
