"""A process asks, the daemon compiles once, everyone gets the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.daemons import status
from mlc_jit import jit

if TYPE_CHECKING:
    from harness.daemons import Clients, Daemon
    from harness.doubles import Double


def test_a_miss_is_compiled_and_then_a_hit(daemon: Daemon, double: Double, client: Clients) -> None:
    model = double.model()
    first = jit(model, {}, "cpu")
    assert Path(first.model_lib_path).is_file()
    assert first.system_lib_prefix is None
    assert client.ask(model).path() == first.model_lib_path
    assert len(double.starts()) == 1
    counters = status().counters
    assert (counters["compiles"], counters["hits"]) == (1, 1)
