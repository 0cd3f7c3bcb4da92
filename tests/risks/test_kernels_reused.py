"""Kernels through a real daemon, really compiled: reused when overrides change, switched off, and given up."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.configs import WITH_KERNELS
from harness.daemons import status
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.daemons import Daemon, Place

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM's own code generation does it"),
]


@pytest.fixture
def tiny(place: Place) -> Path:
    pytest.importorskip("tvm")
    folder = place.folder("tiny")
    (folder / "mlc-chat-config.json").write_text(json.dumps(WITH_KERNELS))
    return folder


def kernels_of(place: Place, path: str) -> dict[str, Any]:
    """What the manifest of a library says of its kernels."""
    (found,) = (
        each for each in map(json.loads, (p.read_text() for p in place.manifests())) if each["artifact"] in path
    )
    record: dict[str, Any] = found["compile"]["kernels"]
    return record


def test_reused_when_overrides_change_and_not_when_switched_off(
    daemon: Daemon, place: Place, tiny: Path, monkeypatch: pytest.MonkeyPatch, mlc_jit: Callable[..., Any]
) -> None:
    details: list[str] = []
    first = jit(tiny, {}, "cpu", on_progress=lambda p: details.append(p.detail if p.stage == "kernels" else ""))
    record = kernels_of(place, first.model_lib_path)
    total = record["total"]
    assert (record["way"], record["reused"]) == ("kernels", 0)
    assert f"{total}/{total}, 0 reused" in details

    second = jit(tiny, {"context_window_size": 128, "max_batch_size": 3}, "cpu")
    record = kernels_of(place, second.model_lib_path)
    assert record["reused"] > 0.8 * total
    assert record["saved"] > 0

    monkeypatch.setenv("MLC_JITD_ACCELERATION", "off")
    assert jit(tiny, {}, "cpu") == first, "no part of the key"
    third = jit(tiny, {"context_window_size": 192}, "cpu")
    assert kernels_of(place, third.model_lib_path) == {
        "way": "", "why": "", "total": 0, "reused": 0, "saved": 0.0, "spent": 0.0
    }  # fmt: skip
    counters = status().counters
    assert counters["kernels_reused"] == record["reused"]
    assert counters["kernels"] == counters["kernels_compiled"] >= total
    screen = mlc_jit("status").stdout
    assert f"  kernels {counters['kernels']} known, " in screen, screen
    kept = place.library / ".kernels"
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept.rglob("*"))


def test_a_failure_behind_it_is_tried_once_more_without(
    daemon: Daemon, place: Place, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linker = place.folder("bin") / "g++"
    linker.write_text(
        f'#!/bin/sh\n[ $# -lt 20 ] || {{ echo "too many objects" >&2; exit 1; }}\nexec {shutil.which("g++")} "$@"\n'
    )
    linker.chmod(0o755)
    monkeypatch.setenv("CXX", str(linker))
    found = jit(tiny, {}, "cpu")
    assert kernels_of(place, found.model_lib_path)["way"] == ""
    assert status().counters["kernels_failures"] == 1
