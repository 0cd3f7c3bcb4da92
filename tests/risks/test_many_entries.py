"""Risk: a cache of very many entries. Figures are for benchmarks/entries.py; here it only has to work."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until
from mlc_jit import jit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

COUNT = 1000
SIZE = 100


def multiply(library: Path, count: int) -> None:
    """More entries like the one that is there, each used an hour before the next."""
    (manifest,) = library.glob("*.json")
    text = json.loads(manifest.read_text())
    (library / ".used").mkdir(exist_ok=True)
    for number in range(count):
        key = hashlib.sha256(b"entry %d" % number).hexdigest()
        content = (b"%d" % number).ljust(SIZE, b"\0")
        digest = hashlib.sha256(content).hexdigest()
        name = f"{key}-{digest[:16]}.so"
        (library / name).write_bytes(content)
        about = {**text, "key": key, "artifact": name, "sha256": digest, "size": SIZE, "created": number}
        (library / f"{key}.json").write_text(json.dumps(about))


@pytest.mark.timeout(60)
def test_it_is_served_listed_and_halved_while_it_serves(
    start_daemon: Callable[..., Daemon],
    double: Double,
    place: Place,
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    model = double.model()
    config = place.root / "config.toml"
    first = start_daemon()
    path = jit(model, {}, "cpu").model_lib_path
    first.stop()
    multiply(place.library, COUNT - 1)
    config.write_text("grace_seconds = 0\n")
    daemon = start_daemon(MLC_JITD_CONFIG=str(config))
    assert jit(model, {}, "cpu").model_lib_path == path
    listed = json.loads(mlc_jit("list", "--json").stdout)
    assert len(listed) == status().entries == COUNT
    assert json.loads(mlc_jit("list", "--json").stdout) == listed, "from memory too"
    bound = status().bytes // 2
    config.write_text(f"grace_seconds = 0\nmax_size = {bound}\n")
    os.kill(daemon.pid, 1)
    until(
        lambda: jit(model, {}, "cpu").model_lib_path == path and status().bytes <= bound, what="a collection", limit=40
    )
    # Copies under upstream's names count to the bound, and not to the status.
    assert bound - 2000 < status().bytes
    left = status().entries
    assert len(place.manifests()) == len(place.artifacts()) == left == len(json.loads(mlc_jit("list", "--json").stdout))
    assert Path(path).exists()
