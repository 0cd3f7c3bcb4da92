"""Requests, deaths, restarts, pins, damage, crashes and collections in any order, over a real folder.

Processes, the clock and the free space are values. What must hold, after every step: what a living process was handed
is there and is what it was; a manifest names an artifact with its content. And after every collection: the bounds hold,
or nothing is left but what is protected.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlc_jitd.store import About, Collector, Entry, Found, Leases, Store, ToolchainRecord, Uses
from mlc_jitd.store.collection import Rules
from mlc_jitd.store.layout import key_of_artifact
from mlc_jitd.store.manifest import decode

KEYS = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(5)]
PIDS = [101, 102, 103]
GRACE = 3600.0
HOUR, DAY = 3600.0, 86400.0
ABOUT = About(suffix="so", toolchain=ToolchainRecord(name="double"))

keys, pids = st.sampled_from(KEYS), st.sampled_from(PIDS)


class Cache(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mj", dir="/tmp"))
        self.fsync, os.fsync = os.fsync, lambda _fd: None  # type: ignore[assignment]
        # Far ahead of the files' own times: only what the model notes is young.
        self.ahead = 400 * DAY
        self.room = 10_000
        self.starts = dict.fromkeys(PIDS, 1)
        self.dead: set[int] = set()
        self.handed: dict[int, dict[str, bytes]] = {pid: {} for pid in PIDS}
        self.leased: dict[int, set[str]] = {pid: set() for pid in PIDS}
        self.pins: dict[str, str] = {}
        self.stale: dict[str, float] = {}
        self.used: dict[str, float] = {}
        self.damaged: set[str] = set()
        self.connections = 0
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "fsync"):
            os.fsync = self.fsync
            shutil.rmtree(self.folder)

    def now(self) -> float:
        return time.time() + self.ahead

    def start_of(self, pid: int) -> int | None:
        return None if pid in self.dead else self.starts.get(pid)

    # --- what a daemon does -------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.leases = Leases(self.folder / "leases", clock=self.now, start_of=self.start_of)
        self.leases.revive()
        self.store = Store(self.folder / "home", clock=self.now, leased=self.leases.held)
        self.store.open(grace=GRACE)
        self.uses = Uses(self.store.layout.used, clock=self.now)
        self.collector = Collector(
            self.store, self.leases, self.uses, free=lambda _: max(0, self.room - self.bytes()), clock=self.now
        )

    @rule(key=keys, pid=pids, content=st.integers(1, 4), redo=st.booleans())
    def ask(self, key: str, pid: int, content: int, redo: bool) -> None:
        if pid in self.dead:
            return
        found = self.store.find(key)
        if isinstance(found, Found) and not redo:
            entry = found.entry
        else:
            self.damaged.discard(key)
            entry = self.publish(key, b"%d" % content * content * 50)
        self.connections += 1
        self.leases.grant(b"%d" % self.connections, pid, entry.manifest.artifact)
        assert self.store.still(entry)
        self.uses.note(key)
        self.uses.flush()
        self.used[key] = self.now()
        self.stale.pop(key, None)
        self.leased[pid].add(entry.manifest.artifact)
        self.handed[pid][entry.path] = Path(entry.path).read_bytes()

    def publish(self, key: str, content: bytes) -> Entry:
        with self.store.lock(key), self.store.staging(key, need=0) as folder:
            (folder / "lib").write_bytes(content)
            return self.store.publish(key, folder / "lib", ABOUT)

    @rule(
        max_size=st.none() | st.integers(0, 900),
        min_free=st.none() | st.integers(9_000, 10_000),
        max_age=st.none() | st.sampled_from([HOUR * 3, DAY * 3]),
        stale_age=st.none() | st.just(DAY),
        locked=st.none() | keys,
    )
    def collect(
        self, max_size: int | None, min_free: int | None, max_age: float | None, stale_age: float | None,
        locked: str | None,
    ) -> None:  # fmt: skip
        rules = Rules(max_size=max_size, min_free=min_free, max_age=max_age, stale_age=stale_age, grace=GRACE)
        kept = {name for name in self.artifacts() if self.protected(name, locked)}
        lock = self.store.lock(locked) if locked else None
        if lock is not None:
            assert lock.acquire(0)
        try:
            done = self.collector.collect(rules, pinned=self.pins, stale=self.stale)
        finally:
            if lock is not None:
                lock.release()
        note(f"removed {[name[:6] for name in done.removed]}, spared {done.facts.spared}")
        assert not kept & done.removed
        assert kept <= self.artifacts().keys()
        left = {name: size for name, size in self.artifacts().items() if not self.protected(name, locked)}
        if max_size is not None and self.bytes() > max_size:
            assert not left, "over its size, and something could go"
            assert done.plan.over == self.bytes() - max_size
        if min_free is not None and self.room - self.bytes() < min_free:
            assert not left, "short of room, and something could go"
        for name in left:
            key = key_of_artifact(name)
            assert key is not None
            assert max_age is None or self.now() - self.used[key] <= max_age + 1
            assert stale_age is None or key not in self.stale or self.now() - self.stale[key] <= stale_age + 1

    # --- what befalls it ----------------------------------------------------------------------------------------------

    @rule(pid=pids)
    def die(self, pid: int) -> None:
        self.dead.add(pid)
        self.handed[pid] = {}
        self.leased[pid] = set()

    @rule(pid=pids)
    def be_born(self, pid: int) -> None:
        if pid in self.dead:
            self.dead.discard(pid)
            self.starts[pid] += 1

    @rule()
    def renew(self) -> None:
        self.leases.renew()

    @rule(key=keys)
    def pin(self, key: str) -> None:
        self.pins[key] = "by hand"

    @rule(key=keys)
    def unpin(self, key: str) -> None:
        self.pins.pop(key, None)

    @rule(key=keys)
    def let_go(self, key: str) -> None:
        self.stale[key] = self.now()

    @rule(seconds=st.sampled_from([60.0, GRACE + 1, 2 * DAY]))
    def wait(self, seconds: float) -> None:
        self.ahead += seconds

    @rule(room=st.integers(0, 10_000))
    def others_write(self, room: int) -> None:
        self.room = room

    @rule(key=keys)
    def damage(self, key: str) -> None:
        found = self.store.find(key)
        if isinstance(found, Found):
            path = Path(found.entry.path)
            path.chmod(0o644)
            path.write_bytes(b"damaged")
            self.damaged.add(key)
            for handed in self.handed.values():
                handed.pop(str(path), None)

    @rule(key=keys)
    def crash_in_a_collection(self, key: str) -> None:
        manifest = self.store.layout.manifest(key)
        if manifest.exists():
            manifest.rename(self.store.layout.gone(key))

    @precondition(lambda self: self.artifacts())
    @rule(data=st.data())
    def crash_later_in_a_collection(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.artifacts())))
        key = str(key_of_artifact(name))
        if name in self.leases.held() or not self.store.layout.manifest(key).exists() or self.current(key) != name:
            return
        self.store.layout.manifest(key).rename(self.store.layout.gone(key))
        (self.store.layout.library / name).unlink()
        self.damaged.discard(key)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def artifacts(self) -> dict[str, int]:
        library = self.store.layout.library
        return {path.name: path.stat().st_size for path in library.iterdir() if key_of_artifact(path.name)}

    def bytes(self) -> int:
        return sum(self.artifacts().values())

    def current(self, key: str) -> str:
        return decode(self.store.layout.manifest(key).read_bytes(), key).artifact

    def protected(self, name: str, locked: str | None) -> bool:
        key = str(key_of_artifact(name))
        if key == locked or any(name in leased for leased in self.leased.values()):
            return True
        manifest = self.store.layout.manifest(key)
        if not manifest.exists():
            return False
        if self.current(key) != name:
            return False
        return key in self.pins or abs(self.now() - self.used.get(key, 0.0)) < GRACE

    @invariant()
    def what_was_handed_out_is_there(self) -> None:
        for handed in getattr(self, "handed", {}).values():
            for path, content in handed.items():
                assert Path(path).read_bytes() == content

    @invariant()
    def manifest_and_artifact_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        for key in sorted(self.store.keys()):
            manifest = decode(self.store.layout.manifest(key).read_bytes(), key)
            artifact = self.store.layout.library / manifest.artifact
            assert artifact.exists()
            if key not in self.damaged:
                assert hashlib.sha256(artifact.read_bytes()).hexdigest() == manifest.sha256


TestCache = Cache.TestCase
TestCache.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCache.pytestmark = [pytest.mark.timeout(120)]
