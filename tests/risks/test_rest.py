"""Risk: a daemon that nobody needs keeps a laptop awake, and takes memory from those who serve."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import status, until
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Daemon
    from harness.doubles import Double

SECONDS = 5.0
WAKE_UPS = 7
"""In so many seconds: a round every 2 s, and other threads now and then. One more every second would be too much."""


def wake_ups(pid: int) -> dict[str, int]:
    """How often each thread of a process has gone to sleep so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended just now
            words = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            found[task.name] = int(words["voluntary_ctxt_switches"])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of wake-ups is Linux's")
@pytest.mark.timeout(40)
def test_a_daemon_at_rest_wakes_less_than_once_a_second(
    double: Double, start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a client that stays connected and a model folder that is watched, when warm compilers have been retired."""
    daemon = start_daemon(MLC_JITD_WARM="0")
    model = double.model()
    jit(model, {}, "cpu")
    until(lambda: [folder.watched for folder in status().folders] == ["events"], what="the folder to be watched")
    counts = []
    for _ in range(5):  # the first may still see what the compile left to do, or the machine's other work
        before = wake_ups(daemon.pid)
        time.sleep(SECONDS)
        counts.append(sum(now - before.get(thread, 0) for thread, now in wake_ups(daemon.pid).items()))
        if counts[-1] <= WAKE_UPS:
            break
    assert min(counts) <= WAKE_UPS, counts
    assert psutil.Process(daemon.pid).memory_info().rss < 60e6, "without the optional parts"
