from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.leftovers import until
from mlc_jit import autostart
from mlc_jit.reach import reach

if TYPE_CHECKING:
    from pathlib import Path

    from harness.daemons import Place


@pytest.fixture
def library(place: Place) -> str:
    """A file that a scripted daemon can name as a library."""
    path = place.root / "lib.so"
    path.touch()
    return str(path)


@pytest.fixture
def socket(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a scripted daemon listens; nothing is started, and nothing done without one."""
    path = place.runtime / "s"
    monkeypatch.setenv("MLC_JITD_SOCKET", str(path))
    monkeypatch.setenv("MLC_JITD", "require")
    monkeypatch.setattr(autostart, "ensure", lambda places: until(lambda: reach(places.socket) == "up"))
    place.stale_sockets = True
    return path
