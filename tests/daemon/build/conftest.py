"""Runs small scripts as jobs, and checks after each test that nobody and nothing is left of them."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.leftovers import LIMIT, below
from mlc_jitd.build import JobGroups, Limits, Outcome, StopSignal, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABEL = "BUILD_TEST"


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: Path


class Bench:
    """A folder to work in, and everything needed to run scripts in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "job.log"
        self.lines: list[str] = []
        self.stop = StopSignal()

    def command(self, *argv: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Command:
        given = {"PATH": "/usr/bin:/bin", LABEL: str(self.folder), **(env or {})}
        return Command(argv, tuple(given.items()), cwd or self.folder)

    def script(self, text: str, **kwargs: object) -> Command:
        return self.command(sys.executable, "-I", "-S", "-u", "-c", textwrap.dedent(text), **kwargs)

    def run(
        self,
        command: Command,
        on_line: Callable[[str], None] | None = None,
        *,
        groups: JobGroups | None = None,
        **limits: object,
    ) -> Outcome:
        chosen = Limits(**{"grace": 5.0, **limits})
        on_line = on_line or self.lines.append
        return run(command, chosen, log=self.log, on_line=on_line, stop=self.stop, groups=groups)

    def supervisor(self) -> psutil.Process:
        return next(iter(below(os.getpid(), "boot.py")))

    def alive(self) -> list[int]:
        """All processes that carry this test's label, wherever they hide."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    environ = (folder / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if f"{LABEL}={self.folder}".encode() in environ:
                    found.append(int(folder.name))
        return found


def wait_until(condition: Callable[[], bool], limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    threads = threading.active_count()
    made = Bench(tmp_path)
    yield made
    assert made.alive() == []
    assert psutil.Process().children() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() == threads
