from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.leftovers import until
from mlc_jitd import housekeeper as room
from mlc_jitd.asks import Asks
from mlc_jitd.config import Settings
from mlc_jitd.housekeeper import Housekeeper
from mlc_jitd.lending import Lending
from mlc_jitd.store import Collector, KernelStore, Leases, Store, Uses

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_kernels_are_within_their_bound_where_none_are_made_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FIRST_SECONDS", 0.0)
    store = Store(tmp_path / "home")
    store.open()
    folder = store.layout.library / ".kernels/00"
    folder.mkdir(parents=True)
    for number in range(10):
        path = folder / f"{number:064x}"
        path.write_bytes(b"k" * 100)
        os.utime(path, (number, number))
    lending = Lending(Leases(tmp_path / "leases"), Uses(store.layout.used))
    settings = Settings.load(flags={"acceleration": "off", "kernel_bytes": "500", "collect_seconds": "0"})
    collector = Collector(store, lending.leases, lending.uses)
    keeper = Housekeeper(lending, collector, Asks(store.layout.library), settings)
    keeper.start()
    try:
        until(lambda: KernelStore(store.layout.library, limit=0).totals().bytes <= 500, what="a trim at the start")
    finally:
        keeper.close()
    assert (folder / f"{9:064x}").exists()
