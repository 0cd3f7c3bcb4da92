"""Collections in a real folder: what goes, what is left alone, what others see meanwhile."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.errors import StoreError
from mlc_jitd.asks import Asks
from mlc_jitd.store import Collector, Entry, Found, Leases, Missing, Store, Uses, collected
from mlc_jitd.store import collector as room
from mlc_jitd.store.collection import Rules
from mlc_jitd.store.recovery import put_all_back
from mlc_jitd.store.upstream import UpstreamNames

if TYPE_CHECKING:
    from collections.abc import Callable

    Publish = Callable[..., Entry]

LATER = 7200.0
NOTHING = Rules(max_size=0)


def key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


class Home:
    """A home two hours after everything in it was published."""

    def __init__(self, home: Path, tmp: Path) -> None:
        self.now = time.time() + LATER
        self.room = 1 << 40
        self.leases = Leases(tmp / "leases", clock=lambda: self.now)
        self.store = Store(home, clock=lambda: self.now, leased=self.leases.held)
        self.store.open()
        self.uses = Uses(self.store.layout.used, clock=lambda: self.now)
        self.collector = Collector(self.store, self.leases, self.uses, free=lambda _: self.room, clock=lambda: self.now)

    def collect(self, rules: Rules = NOTHING, **given: Any) -> list[str]:
        """The keys whose artifacts went, in order."""
        done = self.collector.collect(rules, **given)
        return [each.candidate.key for each in done.plan.removals if each.candidate.artifact in done.removed]

    def stamps(self) -> list[Any]:
        paths = sorted(self.store.layout.library.rglob("*"))
        return [(path, about.st_ino, about.st_size, about.st_ctime_ns) for path in paths if (about := path.lstat())]

    def names(self) -> set[str]:
        return {path.name for path in self.store.layout.library.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Home:
    return Home(home, tmp_path)


def test_an_entry_goes_whole(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    here.store.layout.logs.mkdir()
    log = here.store.layout.logs / f"{key(1)}.log"
    log.touch()
    UpstreamNames(here.store.layout).place("ab" * 16, "so", entry)
    here.uses.flush([key(1)])
    here.now += LATER
    assert here.collect() == [key(1)]
    assert here.names() == set()
    assert not log.exists()
    assert here.uses.read() == {}
    assert here.store.find(key(1)) == Missing("absent", f"{here.store.layout.library} has no entry for this key")


def test_a_dry_run_changes_nothing_and_says_the_same(here: Home, publish: Publish):
    for number in range(3):
        publish(here.store, key=key(number))
    before = here.stamps()
    dry = here.collector.collect(Rules(max_size=7), dry=True)
    assert here.stamps() == before
    wet = here.collector.collect(Rules(max_size=7))
    assert dry.removed == wet.removed
    assert (dry.freed, wet.freed) == (14, 14)


def test_last_uses_decide_the_order(here: Home, publish: Publish):
    for number in range(3):
        publish(here.store, key=key(number))
    for number in (2, 0, 1):
        here.now += 10
        here.uses.flush([key(number)])
    here.now += LATER
    assert here.collect(Rules(max_size=7)) == [key(2), key(0)]
    assert isinstance(here.store.find(key(1)), Found)


def test_what_is_leased_stays_and_goes_when_its_process_ends(here: Home, publish: Publish, monkeypatch: Any):
    entry = publish(here.store, key=key(1))
    here.leases.grant(b"one", os.getpid(), entry.manifest.artifact)
    assert here.collect() == []
    monkeypatch.setattr(here.leases, "_start_of", lambda _: None)
    assert here.collect() == [key(1)]


def test_a_lease_that_comes_while_the_entry_goes_brings_it_back(here: Home, publish: Publish, monkeypatch: Any):
    entry = publish(here.store, key=key(1))
    sync = room.sync_folder

    def lend(path: Path) -> None:
        assert not Path(entry.manifest_path).exists()
        here.leases.grant(b"one", os.getpid(), entry.manifest.artifact)
        sync(path)

    monkeypatch.setattr(room, "sync_folder", lend)
    done = here.collector.collect(NOTHING)
    assert done.removed == frozenset()
    assert done.facts.spared == {entry.manifest.artifact: room.LENT}
    assert here.store.find(key(1)).entry.path == entry.path  # type: ignore[union-attr]


def test_nothing_goes_while_the_leases_can_not_be_read(here: Home, publish: Publish, monkeypatch: Any):
    entry = publish(here.store, key=key(1))
    held, looks = here.leases.held, iter([False, True])

    def second(*_: Any) -> Any:
        if next(looks):
            raise StoreError("Can't read the leases: Too many open files.", reason="emfile")
        return held()

    monkeypatch.setattr(here.leases, "held", second)
    done = here.collector.collect(NOTHING)
    assert done.removed == frozenset()
    assert "open files" in done.facts.spared[entry.manifest.artifact]
    assert here.store.find(key(1)).entry.path == entry.path  # type: ignore[union-attr]


def test_the_next_one_goes_for_what_could_not(here: Home, publish: Publish):
    entries = [publish(here.store, key=key(number)) for number in range(3)]
    for number in range(3):
        here.now += 10
        here.uses.flush([key(number)])
    here.now += LATER
    with here.store.lock(key(0)):
        assert here.collect(Rules(max_size=14)) == [key(1)]
    assert here.names() >= {Path(entries[0].path).name, Path(entries[0].manifest_path).name}
    assert here.collect(Rules(max_size=7)) == [key(0)]


@pytest.mark.parametrize("dry", [True, False])
def test_a_key_that_is_being_made_is_left_alone(here: Home, publish: Publish, home: Path, dry: bool):
    publish(here.store, key=key(1))
    with here.store.lock(key(1)):
        done = here.collector.collect(NOTHING, dry=dry)
    assert done.removed == frozenset()
    assert list(done.facts.spared.values()) == [room.BUSY]


def test_what_was_used_since_it_was_looked_at_stays(here: Home, publish: Publish, monkeypatch: Any):
    publish(here.store, key=key(1))
    lock = here.collector._lock

    def use(name: str) -> Any:
        here.uses.flush([key(1)])
        return lock(name)

    monkeypatch.setattr(here.collector, "_lock", use)
    assert here.collect(Rules(max_size=0, grace=0.0)) == []
    assert isinstance(here.store.find(key(1)), Found)


def test_an_older_artifact_goes_and_the_entry_stays(here: Home, publish: Publish):
    old, new = publish(here.store, b"old", key=key(1)), publish(here.store, b"newer", key=key(1))
    assert here.collect(Rules()) == [key(1)]
    assert here.names() == {Path(new.path).name, Path(new.manifest_path).name}
    assert not Path(old.path).exists()
    assert here.store.find(key(1)) == Found(new)


def test_an_older_artifact_stays_while_somebody_uses_it(here: Home, publish: Publish):
    old = publish(here.store, b"old", key=key(1))
    here.leases.grant(b"one", os.getpid(), old.manifest.artifact)
    publish(here.store, b"newer", key=key(1))
    assert here.collect(NOTHING) == [key(1)], "the entry itself is not in use"
    assert here.names() == {Path(old.path).name}
    here.now += LATER
    Store(here.store.layout.home, clock=lambda: here.now, leased=here.leases.held).open()
    assert here.names() == {Path(old.path).name}, "a start sweeps what has no manifest, but not what is in use"
    assert here.collect(Rules()) == []


def test_an_artifact_that_is_current_again_stays(here: Home, publish: Publish, monkeypatch: Any):
    publish(here.store, b"one", key=key(1))
    publish(here.store, b"other", key=key(1))
    lock = here.collector._lock

    def redo(name: str) -> Any:
        monkeypatch.undo()
        publish(here.store, b"one", key=key(1))
        return lock(name)

    monkeypatch.setattr(here.collector, "_lock", redo)
    here.collect(Rules())
    found = here.store.find(key(1))
    assert isinstance(found, Found)
    assert Path(found.entry.path).read_bytes() == b"one"


def test_a_manifest_of_a_later_version_is_left_alone(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    text = json.loads(Path(entry.manifest_path).read_text())
    Path(entry.manifest_path).write_text(json.dumps({**text, "format": 99}))
    done = here.collector.collect(NOTHING)
    assert done.removed == frozenset()
    assert "format 99" in next(iter(done.facts.spared.values()))


def test_a_manifest_that_is_damaged_is_left_to_who_finds_it(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    Path(entry.manifest_path).write_text("{")
    assert here.collect() == []
    assert here.store.find(key(1)).reason == "damaged"  # type: ignore[union-attr]


def test_what_a_newer_version_wrote_comes_back_unread(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    manifest = Path(entry.manifest_path)
    text = json.dumps({**json.loads(manifest.read_bytes()), "format": 99})
    manifest.unlink()
    here.store.layout.gone(key(1)).write_text(text)
    here.store.open()
    assert manifest.read_text() == text
    assert "format 99" in here.store.find(key(1)).detail  # type: ignore[union-attr]


def test_others_files_are_not_touched(here: Home, publish: Publish):
    library = here.store.layout.library
    strange = ["0123456789abcdef0123456789abcdef.so", "notes.txt", f"{key(9)}.tmp", f"{key(9)}-{'0' * 16}.exe"]
    for name in strange:
        (library / name).write_bytes(b"x")
    (library / f"{key(8)}-{'0' * 16}.so").symlink_to("/etc/hosts")
    publish(here.store, key=key(1))
    assert here.collect() == [key(1)]
    assert here.names() == {*strange, f"{key(8)}-{'0' * 16}.so"}


def test_remains_of_keys_that_are_gone_go(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    layout = here.store.layout
    layout.logs.mkdir()
    for number in (1, 2):
        (layout.logs / f"{key(number)}.log").touch()
    (layout.logs / "strange.log").touch()
    here.uses.flush([key(1), key(2)])
    UpstreamNames(layout).place("ab" * 16, "so", entry)
    Path(entry.manifest_path).rename(layout.library / "aside")
    Path(entry.path).unlink()
    here.now += 8 * 86400
    assert here.collector.collect(Rules()).remains == 5
    assert here.uses.read() == {}
    assert [path.name for path in layout.logs.iterdir()] == ["strange.log"]
    assert here.names() == {"aside"}


def test_a_disk_that_is_full_to_the_last_byte(here: Home, publish: Publish, monkeypatch: Any):
    """Nothing can be made while the reserve is there: no lock file, no name."""
    publish(here.store, key=key(1))
    here.collector.reserve.fill()
    reserve = here.store.layout.library / ".reserve"
    assert reserve.stat().st_size == 1 << 20
    (here.store.layout.locks / key(1)).unlink()
    real_open, real_rename = os.open, os.rename

    def full(real: Any) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            new = args and isinstance(args[0], int) and args[0] & os.O_CREAT and not os.path.lexists(path)
            if reserve.exists() and (real is real_rename or new):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "open", full(real_open))
    monkeypatch.setattr(os, "rename", full(real_rename))
    here.room = 0
    assert here.collect(Rules(min_free=100)) == [key(1)]
    assert not reserve.exists(), "others need the room more"
    here.room = 1 << 40
    here.collect(Rules())
    assert reserve.exists()


def test_the_floor_is_kept(here: Home, publish: Publish):
    for number in range(4):
        publish(here.store, key=key(number))
    here.room = 80
    assert len(here.collect(Rules(min_free=100))) == 3
    here.room = 0
    done = here.collector.collect(Rules(min_free=100))
    assert (done.plan.short, here.names()) == (93, set())


def kernels(here: Home, count: int, size: int = 100) -> None:
    for number in range(count):
        path = here.store.layout.library / ".kernels" / "00" / f"{number:064x}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"k" * size)
        os.utime(path, (number, number))


def test_kernels_go_before_libraries_for_the_floor(here: Home, publish: Publish):
    publish(here.store, key=key(1))
    kernels(here, 3)
    here.room = 900
    dry = here.collector.collect(Rules(min_free=1000), dry=True)
    assert (dry.kernels, dry.removed, here.collector.kernels.totals().kernels) == (100, frozenset(), 3)
    done = here.collector.collect(Rules(min_free=1000))
    assert done.removed == frozenset()
    assert done.kernels >= 100
    assert done.plan.short == 0
    assert not (here.store.layout.library / ".kernels/00" / f"{0:064x}").exists(), "the least recently used"
    assert here.collector.kernels.totals().kernels >= 1
    here.room = 1000
    assert here.collector.collect(Rules(min_free=1000)).kernels == 0
    here.room = 0
    assert here.collect(Rules(min_free=1000)) == [key(1)]
    assert here.collector.kernels.totals().kernels == 0


def test_a_collection_can_be_ended(here: Home, publish: Publish, monkeypatch: Any):
    monkeypatch.setattr(room, "SLICE", 1)
    for number in range(4):
        publish(here.store, key=key(number))
    answers = iter([False, False, True])
    done = here.collector.collect(NOTHING, stop=lambda: next(answers))
    assert (len(done.removed), done.stopped) == (2, True)
    assert len(here.store.keys()) == 2


def test_what_a_collection_did_is_noted_for_all(here: Home, publish: Publish):
    publish(here.store, key=key(1))
    here.collect()
    last = collected.last(here.store.layout)
    assert last is not None
    assert (last.when, last.removed, last.freed) == (here.now, 1, 7)
    (here.store.layout.library / ".collected").write_text("{")
    assert collected.last(here.store.layout) is None


# --- what a crash leaves, and what others see meanwhile ---------------------------------------------------------------


def test_who_looks_for_an_entry_that_a_crash_took_away_finds_it(here: Home, publish: Publish):
    entry = publish(here.store, key=key(1))
    Path(entry.manifest_path).rename(here.store.layout.gone(key(1)))
    found = here.store.find(key(1))
    assert isinstance(found, Found)
    assert not here.store.layout.gone(key(1)).exists()


def test_a_start_puts_back_what_can_be(here: Home, publish: Publish):
    whole, gone, made_anew = (publish(here.store, b"%d" % number, key=key(number)) for number in range(3))
    for entry in (whole, gone, made_anew):
        Path(entry.manifest_path).rename(here.store.layout.gone(entry.key))
    Path(gone.path).unlink()
    publish(here.store, b"new", key=made_anew.key)
    (here.store.layout.library / f".{key(7)}.json.gone").write_text("{")
    put_all_back(here.store.layout, here.store._locks)
    assert here.store.keys() == sorted([whole.key, made_anew.key])
    assert not list(here.store.layout.library.glob(".*.gone"))


def test_a_look_waits_for_the_collector(here: Home, publish: Publish, monkeypatch: Any):
    """Between the manifest's leaving and the decision, another reader finds the entry or a miss that is true."""
    entry = publish(here.store, key=key(1))
    here.leases.grant(b"one", os.getpid(), entry.manifest.artifact)
    taken = here.leases.held()
    answers = iter([{}, taken])
    monkeypatch.setattr(here.leases, "held", lambda: next(answers))
    import threading

    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(Store.find(here.store, key(1))))
    sync = room.sync_folder

    def meanwhile(path: Path) -> None:
        reader.start()
        time.sleep(0.05)  # it may only find the entry later; never a miss
        assert got == []
        sync(path)

    monkeypatch.setattr(room, "sync_folder", meanwhile)
    assert here.collect() == []
    reader.join()
    assert isinstance(got[0], Found)


def test_nothing_goes_where_it_is_not_known_what_is_pinned(here: Home, publish: Publish) -> None:
    publish(here.store)
    asks = Asks(here.store.layout.library)
    asks.pin_key(key(1))
    (here.store.layout.library / ".asks" / "keys.json").write_text("{torn")
    assert here.collect(pinned=asks.protected()) == []
    asks = Asks(here.store.layout.library)
    (here.store.layout.library / ".asks" / "keys.json").unlink()
    assert here.collect(pinned=asks.protected()) == ["ab" * 32]
