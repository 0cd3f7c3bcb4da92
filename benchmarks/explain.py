"""What it takes to explain a miss among many entries: `python benchmarks/explain.py [--entries 10000]`.

Three figures: all manifests read once (in the background, when a daemon starts), one explanation with that done, and
one on a daemon that has read nothing yet. The last one is bounded on the way of a request (GLANCE_SECONDS).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.known import Known
from mlc_jitd.store import About, ModelRecord, PartRecord, Store, ToolchainRecord
from mlc_jitd.store.manifest import Manifest, encode
from mlc_jitd.work import GLANCE_SECONDS

CONFIG = {f"field_{n}": n for n in range(40)}


def parts_of(number: int, opt: str) -> tuple[Any, ...]:
    values: dict[str, Any] = {
        **dict.fromkeys(PART_NAMES),
        "format": 1,
        "model": {"model_type": "llama", "quantization": "q4f16_1", "active_vocab_size": None, "config": CONFIG},
        "overrides": {"max_batch_size": number},
        "opt": opt,
        "target": {"target": {"kind": "llvm", "mcpu": "x86-64-v3"}},
        "toolchain": {"packages": {"tvm": {"version": "0.27", "build": "ab" * 32}}},
    }
    return tuple(part(name, values[name]) for name in PART_NAMES)


def fill(store: Store, entries: int) -> None:
    for number in range(entries):
        parts = parts_of(number, "O3")
        about = About(
            suffix="so",
            toolchain=ToolchainRecord(name="mlc_llm", fingerprint="f", versions={"mlc_llm": "0.20"}),
            parts={each.name: PartRecord(sha256=each.sha256, value=each.value) for each in parts},
            model=ModelRecord(path=f"/m{number}", type="llama", quantization="q4f16_1"),
        )
        key = key_of(parts)
        manifest = Manifest.describe(about, key=key, sha256="ab" * 32, size=7, created=float(number), version="1")
        (store.layout.library / f"{key}.json").write_bytes(encode(manifest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    entries = parser.parse_args().entries
    parts = parts_of(-1, "O2")
    identity: Any = SimpleNamespace(
        key=key_of(parts), parts=parts, model_type="llama", quantization="q4f16_1",
        toolchain=SimpleNamespace(fingerprint="f"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.open()
        fill(store, entries)
        time.sleep(2.1)  # until the folder counts as settled
        known = Known(store)
        began = time.perf_counter()
        known.refresh()
        read = time.perf_counter() - began
        known.refresh()
        taken = []
        for _ in range(50):
            began = time.perf_counter()
            found = known.why(identity, "/m")
            taken.append(time.perf_counter() - began)
        assert found.compared == entries
        began = time.perf_counter()
        Known(store).why(identity, "/m", seconds=GLANCE_SECONDS)
        fresh = time.perf_counter() - began
    print(f"{entries} entries: all read in {read:.2f} s; then an explanation takes")
    print(f"  p50 {statistics.median(taken) * 1e3:.1f} ms, worst of 50 {max(taken) * 1e3:.1f} ms")
    print(
        f"on a daemon that has read nothing: {fresh * 1e3:.0f} ms (it reads for {GLANCE_SECONDS * 1e3:.0f} ms at most)"
    )


if __name__ == "__main__":
    main()
