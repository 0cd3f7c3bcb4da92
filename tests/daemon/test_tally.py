"""Counting by several threads, read by another."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_what_grows_is_read_and_nothing_is_lost(restless: None) -> None:
    tally = Tally()

    def count(own: int) -> None:
        for number in range(2000):
            tally.add("all")
            tally.add(f"{own}_{number}")

    threads = [threading.Thread(target=count, args=(own,)) for own in range(3)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        tally.read("x_")
    read = tally.read("x_")
    assert read.pop("x_all") == 6000
    assert set(read.values()) == {1}
    assert len(read) == 6000
