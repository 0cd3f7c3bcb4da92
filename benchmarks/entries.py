"""A cache of many entries beside one of a single entry: start-up, hits, the listing, and a collection while hits go on.

    python benchmarks/entries.py [--entries 10000] [--rounds 7] [--seconds 10] [--json]

Goals: from the start of a daemon to its first hit at most 1.2 times what it takes with one entry; the same latency of a
hit; `mlc-jit list` in less than a second. For hits during a collection to half the size there is no goal but honesty:
their 99th percentile stands beside that of a quiet daemon in the same run.

One tiny library is compiled by the embedded toolchain; the others are made up, with manifests like its own. The two
caches are measured in turn, so that the machine's mood hits both alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from common import TINY, p50, p99

ARTIFACT_BYTES = 16 << 10
READY_SECONDS = 60.0
SETTLED_SECONDS = 3.0
"""Until a daemon that has just started has read what it reads then, so that hits are alone."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7, help="starts of each daemon, and blocks of hits")
    parser.add_argument("--seconds", type=float, default=10.0, help="of quiet hits before the collection")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    try:
        report = measure(folder, arguments.entries, arguments.rounds, arguments.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, entries: int, rounds: int, seconds: float) -> dict[str, Any]:
    model = folder / "tiny"
    model.mkdir()
    (model / "mlc-chat-config.json").write_text(json.dumps(TINY, indent=2))
    one, many = Cache(folder / "one"), Cache(folder / "many")
    print("compiling a tiny library …", file=sys.stderr)
    with one:
        one.hit(model)
    print(f"making {entries - 1} more …", file=sys.stderr)
    shutil.copytree(one.home, many.home, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".locks", ".staging"))
    multiply(many.home / "model_lib", entries - 1)
    print("starts and hits …", file=sys.stderr)
    starts: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(rounds):
        for name, cache in (("one", one), ("many", many)):
            began = time.perf_counter()
            with cache:
                cache.hit(model)
                starts[name].append(time.perf_counter() - began)
    hits = {name: latencies(cache, model, rounds) for name, cache in (("one", one), ("many", many))}
    listing = {name: listed(cache) for name, cache in (("one", one), ("many", many))}
    print("a collection while hits go on …", file=sys.stderr)
    return {
        "entries": entries,
        "rounds": rounds,
        "start_s": {name: statistics.median(values) for name, values in starts.items()},
        "start_ratio": statistics.median(b / a for a, b in zip(starts["one"], starts["many"], strict=True)),
        "hit_us": {name: {"p50": p50(each), "p99": p99(each)} for name, each in hits.items()},
        "list_s": listing,
        "collection": collection(many, model, seconds),
    }


class Cache:
    """A home and, inside ``with``, a daemon that serves it to this process."""

    def __init__(self, folder: Path) -> None:
        self.home, self.runtime = folder / "home", folder / "run"
        self.home.mkdir(parents=True)
        self.config = folder / "config.toml"
        self.config.write_text("grace_seconds = 0\nmax_size = 0\nmin_free = 0\ncollect_seconds = 600\n")
        self.log = folder / "daemon.log"
        self.env = {
            **os.environ,
            "MLC_LLM_HOME": str(self.home),
            "MLC_JITD_RUNTIME_DIR": str(self.runtime),
            "MLC_JITD_CONFIG": str(self.config),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        read, write = os.pipe()
        command = [sys.executable, "-P", "-m", "mlc_jitd", "run", "--ready-fd", str(write)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.env, pass_fds=(write,))
        os.close(write)
        if not select.select([read], [], [], READY_SECONDS)[0] or os.read(read, 64) != b"ready\n":
            raise SystemExit(f"the daemon did not start: {self.log.read_text()}")
        os.close(read)
        os.environ.update({name: self.env[name] for name in ("MLC_LLM_HOME", "MLC_JITD_RUNTIME_DIR")})
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def hit(self, model: Path) -> None:
        from mlc_jit import api

        api.jit(model, {}, "cpu", skip_log_jit_policy=True)

    def status(self) -> Any:
        from mlc_jit import messages as m
        from mlc_jit.cli.asking import answer

        return answer(lambda id_: m.StatusRequest(id=id_), m.Status)


def multiply(library: Path, count: int) -> None:
    """More entries like the one that is there."""
    (manifest,) = library.glob("*.json")
    text = json.loads(manifest.read_text())
    for number in range(count):
        key = hashlib.sha256(b"entry %d" % number).hexdigest()
        content = b"%d" % number + bytes(ARTIFACT_BYTES)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{key}-{digest[:16]}.{text['suffix']}"
        (library / name).write_bytes(content)
        about = {**text, "key": key, "artifact": name, "sha256": digest, "size": len(content)}
        (library / f"{key}.json").write_text(json.dumps(about, indent=1))


def latencies(cache: Cache, model: Path, rounds: int) -> list[float]:
    """Microseconds of hits."""
    with cache:
        cache.hit(model)
        time.sleep(SETTLED_SECONDS)
        return [timed(cache, model) for _ in range(200 * rounds)]


def timed(cache: Cache, model: Path) -> float:
    begun = time.perf_counter_ns()
    cache.hit(model)
    return (time.perf_counter_ns() - begun) / 1e3


def listed(cache: Cache) -> float:
    """Seconds of a whole `mlc-jit list`, the second one of a daemon."""
    with cache:
        command = [sys.executable, "-P", "-m", "mlc_jit", "list", "--json"]
        subprocess.run(command, env=cache.env, check=True, stdout=subprocess.DEVNULL)
        begun = time.perf_counter()
        subprocess.run(command, env=cache.env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def collection(cache: Cache, model: Path, seconds: float) -> dict[str, Any]:
    """Hits of a quiet daemon, then of one that collects half of what it has, told so by SIGHUP."""
    with cache:
        cache.hit(model)
        time.sleep(SETTLED_SECONDS)
        before = cache.status()
        quiet, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            quiet.append(timed(cache, model))
        size = before.bytes // 2
        cache.config.write_text(f"grace_seconds = 0\nmax_size = {size}\nmin_free = 0\ncollect_seconds = 600\n")
        done = threading.Event()

        def wait() -> None:
            while cache.status().cache.collected <= before.cache.collected:
                time.sleep(0.2)
            done.set()

        assert cache.process is not None
        cache.process.send_signal(signal.SIGHUP)
        begun = time.monotonic()
        threading.Thread(target=wait, daemon=True).start()
        busy = []
        while not done.is_set():
            busy.append(timed(cache, model))
        took = time.monotonic() - begun
        after = cache.status()
    return {
        "entries_before": before.entries,
        "entries_after": after.entries,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
        "bound": size,
        "seconds": took,
        "quiet_us": {"calls": len(quiet), "p50": p50(quiet), "p99": p99(quiet), "max": max(quiet)},
        "busy_us": {"calls": len(busy), "p50": p50(busy), "p99": p99(busy), "max": max(busy)},
    }


def table(report: dict[str, Any]) -> str:
    start, hit, listing, held = report["start_s"], report["hit_us"], report["list_s"], report["collection"]
    quiet, busy = held["quiet_us"], held["busy_us"]

    def line(name: str, one: float, many: float, unit: str) -> str:
        return f"{name:28}{one:>10.{3 if unit == 's' else 0}f} {unit:2}{many:>10.{3 if unit == 's' else 0}f} {unit:2}"

    return "\n".join(
        [
            f"{'':28}{'1 entry':>13}{report['entries']:>9,} entries   ratio (goal)",
            f"{line('start to first hit', start['one'], start['many'], 's')}   {report['start_ratio']:.2f}x (1.2x)",
            *(
                f"{line(f'hit, {p}', hit['one'][p], hit['many'][p], 'us')}   {hit['many'][p] / hit['one'][p]:.2f}x"
                for p in ("p50", "p99")
            ),
            f"{line('mlc-jit list', listing['one'], listing['many'], 's')}   (below 1 s)",
            "",
            (
                f"collection from {held['entries_before']:,} to {held['entries_after']:,} entries in "
                f"{held['seconds']:.1f} s, with hits all the while:"
            ),
            f"{'':28}{'quiet':>13}{'collecting':>13}   ratio",
            *(
                f"{line(f'hit, {p}', quiet[p], busy[p], 'us')}   {busy[p] / quiet[p]:.2f}x"
                for p in ("p50", "p99", "max")
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
