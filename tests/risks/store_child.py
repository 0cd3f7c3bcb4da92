"""What the store's risk tests run in processes of their own: `python store_child.py VERB HOME ...`. Not a test."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sys
import time
from pathlib import Path

from mlc_jitd.store import About, Collector, Found, Leases, Store, ToolchainRecord, Uses
from mlc_jitd.store.collection import Rules

KEY = "ab" * 32
OLD, NEW = b"old library " * 5000, b"new library, longer " * 9000
ABOUT = About(suffix="so", toolchain=ToolchainRecord(name="double"))
CRASHED = 42


def publish(store: Store, content: bytes, key: str = KEY) -> str:
    with store.lock(key), store.staging(key, need=len(content)) as folder:
        staged = folder / "lib.so"
        staged.write_bytes(content)
        return store.publish(key, staged, ABOUT).path


# --- crashes --------------------------------------------------------------------------------------------------------

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate"}


def arm(step: int, trail: int) -> None:
    """End this process just before its `step`-th change of the file system; note each change on `trail`."""
    left = step

    def tick(event: str) -> None:
        nonlocal left
        left -= 1
        os.write(trail, f"{event}\n".encode())
        if left == 0:
            os._exit(CRASHED)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
            tick(event)

    def before(name: str) -> None:
        real = getattr(os, name)

        def wrapped(fd: int, *args: object) -> object:
            if fd != trail:
                tick(f"os.{name}")
            return real(fd, *args)

        setattr(os, name, wrapped)

    before("fsync")
    before("pwrite")
    write = os.write

    def half(fd: int, data: bytes) -> int:
        """A crash in the middle of a write leaves a part."""
        if fd != trail:
            data = bytes(data)
            write(fd, data[: len(data) // 2])
            tick("os.write")
            data = data[len(data) // 2 :]
        return write(fd, data)

    os.write = lambda fd, data: half(fd, data) + (0 if fd == trail else len(data) // 2)
    sys.addaudithook(hook)


def crash_everywhere(home: Path, scenario: str) -> list[dict[str, object]]:
    """Run the scenario again and again, ending it one step later each time, until it comes through."""
    results = []
    for step in range(1, 400):
        shutil.rmtree(home, ignore_errors=True)
        prepare(home, scenario)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            arm(step, write)
            store = Store(home)
            store.open()
            if scenario == "quarantine":
                store.find(KEY)
            elif scenario.startswith("collect"):
                collect(store, handed=scenario == "collect-handed")
            else:
                publish(store, OLD if scenario in {"identical", "over-damage"} else NEW)
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read) as trail:
            events = trail.read().split()
        results.append({"status": os.waitstatus_to_exitcode(status), "event": events[-1], **look(home)})
        if status == 0:
            return results
    raise AssertionError("it never came through")


def prepare(home: Path, scenario: str) -> None:
    store = Store(home)
    if scenario == "first":
        return
    store.open()
    path = Path(publish(store, OLD))
    if scenario.startswith("collect"):
        uses = Uses(store.layout.used)
        uses.flush([KEY])
        os.utime(store.layout.used / KEY, (1, 1))
    if scenario == "collect-older":
        publish(store, NEW)
    if scenario in {"quarantine", "over-damage"}:
        damage(path)
    if scenario == "over-damage":
        store.layout.manifest(KEY).unlink()


def collect(store: Store, *, handed: bool) -> None:
    """A collection two hours later that takes what it may; `handed`: a process gets the entry in its middle."""
    leases = Leases(store.layout.home / "leases")
    collector = Collector(store, leases, Uses(store.layout.used), clock=lambda: time.time() + 7200)
    if handed:
        look = leases.held

        def held() -> dict[str, object]:
            if store.layout.gone(KEY).exists():
                leases.grant(b"one", os.getppid(), next(store.layout.library.glob(f"{KEY}-*")).name)
            return look()

        leases.held = held
    collector.collect(Rules(max_size=None if store.layout.manifest(KEY).exists() and older(store) else 0))


def older(store: Store) -> bool:
    return len(list(store.layout.library.glob(f"{KEY}-*"))) > 1


def damage(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    path.chmod(0o444)


def look(home: Path) -> dict[str, object]:
    """What a reader sees, what a start leaves, and whether the next publish works."""
    reader = Store(home)
    reader.open(writable=False)
    seen = content(reader)
    artifacts = len(list(reader.layout.library.glob(f"{KEY}-*")))
    # A start two hours later, when the grace is over.
    later = Store(home, clock=lambda: time.time() + 7200)
    later.open()
    after = content(later)
    staging = len(list(later.layout.staging.iterdir()))
    orphans = [p.name for p in later.layout.library.glob(f"{KEY}-*") if not later.layout.manifest(KEY).exists()]
    away = [path.name for path in later.layout.library.glob(".*.gone")]
    publish(later, b"the next one")
    return {
        "seen": seen,
        "artifacts": artifacts,
        "away": away,
        "after": after,
        "staging": staging,
        "orphans": orphans,
        "next": content(later),
    }


def content(store: Store) -> str:
    found = store.find(KEY)
    if not isinstance(found, Found):
        return found.reason
    data = Path(found.entry.path).read_bytes()
    names = {OLD: "old", NEW: "new", b"the next one": "next"}
    return names.get(data, "WRONG") if hashlib.sha256(data).hexdigest() == found.entry.manifest.sha256 else "WRONG"


# --- races ----------------------------------------------------------------------------------------------------------


def hammer(home: Path, mode: str = "read") -> dict[str, int]:
    """Find until standard input ends; every answer must be a whole library. Mode `judge`: move damage away."""
    store = Store(home)
    store.open(writable=mode == "judge")
    counts: dict[str, int] = {}
    say("ready")
    os.set_blocking(0, False)
    while sys.stdin.buffer.read(1) is None:
        found = store.find(KEY)
        if isinstance(found, Found) and mode == "judge":
            word = "found"
        elif isinstance(found, Found):
            data = Path(found.entry.path).read_bytes()
            good = hashlib.sha256(data).hexdigest() == found.entry.manifest.sha256
            word = "whole" if good else "WRONG"
        else:
            word = found.reason
        counts[word] = counts.get(word, 0) + 1
    return counts


def hold(home: Path, *_: str) -> str:
    store = Store(home)
    store.open()
    with store.lock(KEY), store.staging(KEY, need=1) as folder:
        (folder / "half").write_bytes(b"x")
        say("held")
        sys.stdin.read(1)
    return "released"


def contend(home: Path, rounds: str) -> str:
    """Take the lock again and again; nobody else may be inside."""
    store = Store(home)
    store.open()
    inside = home / "inside"
    say("ready")
    sys.stdin.read(1)
    for _ in range(int(rounds)):
        with store.lock(KEY) as lock:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            assert lock.holder().startswith(f"process {os.getpid()} ")
            time.sleep(0.001)
            inside.unlink()
    return "done"


def churn(home: Path, rounds: str) -> int:
    """Make staging folders while others sweep."""
    store = Store(home)
    for _ in range(int(rounds)):
        store.open()
        with store.staging(KEY, need=1) as folder:
            (folder / "x").write_bytes(b"x")
            store.open()
            assert (folder / "x").read_bytes() == b"x"
    return int(rounds)


def mapped(home: Path, *_: str) -> list[str]:
    store = Store(home)
    store.open()
    found = store.find(KEY)
    assert isinstance(found, Found)
    with Path(found.entry.path).open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = hashlib.sha256(library).hexdigest()
    say("mapped")
    sys.stdin.read(1)
    return [before, hashlib.sha256(library).hexdigest()]


def say(word: str) -> None:
    print(word, flush=True)


def main(verb: str, home: str, *args: str) -> None:
    verbs = {
        "crash": crash_everywhere, "hammer": hammer, "hold": hold, "contend": contend, "churn": churn, "map": mapped,
    }  # fmt: skip
    print(json.dumps(verbs[verb](Path(home), *args)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
