from __future__ import annotations

import contextlib
import socket

import pytest


@pytest.fixture(scope="session", autouse=True)
def runtime_of_obstore():
    """Its threads and descriptors are made once for each process, and no test's leftovers."""
    with contextlib.suppress(ImportError):
        from mlc_jitd.fleet.objects import open_bucket

        open_bucket("memory:///").list("", most=1)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
