"""What a test left behind: processes, threads, descriptors and socket files; and how to end such processes.

A process belongs to a test if its environment carries the test's mark, or if its command line names the test's folder
(what a compiler's environment holds is the daemon's choice). Only processes that are younger than the test are looked
at, so that the check costs next to nothing. Not guaranteed: to see, elsewhere than on Linux, a process that left our
tree.
"""

# ruff: noqa: PTH115, PTH123, PTH208 - after each of a thousand tests: plain calls on /proc

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "MLC_JITD_TEST_MARK"
PATIENCE = 5.0
LIMIT = 40.0
"""Seconds after which what is waited for is taken to hang: a full host takes ten times as long as a quiet one. Tests
that promise a time state it; `make test` ends any other after 60 s."""
PROC = Path("/proc")


def until(condition: Callable[[], object], limit: float = LIMIT, *, what: str = "") -> None:
    """Wait for a state."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what or condition}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def below(pid: int, words: str = "") -> list[psutil.Process]:
    """The living processes below one, at any depth, whose command line has these words; one may end meanwhile."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(process.cmdline()):
                found.append(process)
    return found


@dataclass(frozen=True)
class Scene:
    """What there was when a test began.

    Attributes:
        mark: The value of ``MARK`` in this test's environment.
        folder: The test's own folder.
    """

    mark: str
    folder: Path
    pids: frozenset[int]
    children: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]

    @classmethod
    def now(cls, mark: str, folder: Path) -> Scene:
        """Look around."""
        return cls(
            mark,
            folder,
            frozenset(_pids()),
            frozenset(_children()),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
        )

    def processes(self) -> list[int]:
        """The living processes of this test, wherever they hide."""
        if not PROC.is_dir():
            return [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in self.children]
        mark, folder = f"{MARK}={self.mark}".encode(), os.fsencode(self.folder)
        found = []
        for pid in _pids() - self.pids - {os.getpid()}:
            with contextlib.suppress(OSError):
                if folder in _read(pid, "cmdline") or mark in _read(pid, "environ").split(b"\0"):
                    found.append(pid)
        return found

    def leftovers(self) -> list[str]:
        """Everything that should be gone by now; what is just going is given time."""
        end = time.monotonic() + PATIENCE
        while (found := self._look()) and time.monotonic() < end:
            gc.collect()
            time.sleep(0.01)
        return found

    def kill(self) -> None:
        """End what is left of processes, so that the next test starts clean."""
        for pid in {*self.processes(), *(_children() - self.children)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _look(self) -> list[str]:
        found = [f"process {_describe(pid)}" for pid in self.processes()]
        found += [f"child {_describe(pid)}" for pid in _children() - self.children]
        found += [f"thread {thread.name}" for thread in threading.enumerate() if thread not in self.threads]
        found += [f"descriptor {fd} -> {target}" for fd, target in _descriptors() - self.descriptors]
        return found


def _read(pid: int, name: str) -> bytes:
    with open(f"{PROC}/{pid}/{name}", "rb") as file:
        return file.read()


def _pids() -> set[int]:
    return {int(name) for name in os.listdir(PROC) if name.isdigit()} if PROC.is_dir() else set()


def _children() -> set[int]:
    found: set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
    except FileNotFoundError:  # a thread that just ended, no such kernel, or no Linux
        found = {child.pid for child in psutil.Process().children()}
    return found


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


def _describe(pid: int) -> str:
    words: list[str] = []
    try:
        process = psutil.Process(pid)
        with contextlib.suppress(psutil.ZombieProcess):
            words = process.cmdline()
        return f"{pid} ({process.status()}) {' '.join(words)[:300]}"
    except psutil.Error:
        return str(pid)
