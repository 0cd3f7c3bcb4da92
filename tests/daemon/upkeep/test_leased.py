"""Risk: a verb that looks after the cache sweeps an artifact that a process uses."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit import messages as m
from mlc_jit.errors import JitError
from mlc_jitd.lending import leases_here
from mlc_jitd.store import store as room
from mlc_jitd.upkeep import import_, keep, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.store import Entry


@pytest.mark.parametrize("verb", [import_, keep, verify], ids=["import", "keep", "verify"])
def test_a_verb_knows_what_is_leased(
    verb: Any, made: Callable[..., Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = made().manifest.artifact
    leases_here().grant(b"", os.getpid(), artifact)
    (tmp_path / "asked").write_bytes(m.encode(m.Keep(keep="pin", key="ab" * 32)))
    seen: list[bool] = []
    real = room.sweep

    def sweep(*given: Any, **options: Any) -> Any:
        seen.append(artifact in options["leased"]())
        return real(*given, **options)

    monkeypatch.setattr(room, "sweep", sweep)
    monkeypatch.setattr(verify, "step_back", lambda: True)
    words = argparse.Namespace(files=[], message=tmp_path / "asked", keys=[], repair=True, recompile=False)
    with contextlib.suppress(JitError):  # there is no entry to pin
        verb.run(words, lambda _: None)
    assert seen == [True]
