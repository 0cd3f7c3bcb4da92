"""Risk: a process that is stopped, not dead, holds a key's lock; nobody may wait for it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_jit.errors import DaemonUnavailableError
from mlc_jitd import locked
from mlc_jitd.build import StopSignal
from mlc_jitd.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="a stopped process is recognised by /proc")

KEY = "cd" * 32

HOLD = """
import sys
from pathlib import Path
from mlc_jitd.store import Store
store = Store(Path(sys.argv[1]))
store.open()
lock = store.lock(sys.argv[2])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), KEY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        os.kill(process.pid, signal.SIGCONT)
        process.kill()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.open()
    return store


def test_a_stopped_holder_is_given_up_and_named(store, holder, monkeypatch):
    monkeypatch.setattr(locked, "FROZEN_SECONDS", 0.2)
    os.kill(holder.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    told = []
    with pytest.raises(DaemonUnavailableError, match=f"process {holder.pid} ") as trouble:
        locked.take(store.lock(KEY), told.append, StopSignal())
    assert trouble.value.reason == "frozen"
    assert [stage.name for stage in told] == ["locked"]


def test_a_living_holder_is_waited_for(store, holder, monkeypatch):
    monkeypatch.setattr(locked, "FROZEN_SECONDS", 0.0)
    lock = store.lock(KEY)

    def end(_stage):
        holder.kill()

    assert locked.take(lock, end, StopSignal()) is True
    lock.release()


def test_only_a_stopped_holder_is_frozen(store, holder):
    lock = store.lock(KEY)
    assert lock.frozen() == ""
    os.kill(holder.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
    assert str(holder.pid) in lock.frozen()
