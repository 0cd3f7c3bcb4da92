"""The warm compilers of a daemon: which job gets which, when one is started, and when it is retired.

A worker serves one *kind*: an interpreter, a build of a compiler, and a set of variables (some are read at import).
Everything that is wrong with a worker before its job runs ends in a plain subprocess: a warm compiler saves time, and
nothing else may depend on it.
What does not belong here: processes and sockets (`warm_worker`), and what a compiler is.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .runner import run
from .warm_worker import UnfitError, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from .cgroup import JobGroups
    from .limits import CommandLike, Limits, Outcome
    from .stop import StopSignal

__all__ = ["Kind", "WarmCompilers", "WarmCounts"]

logger = logging.getLogger(__name__)

START_SECONDS = 180.0
"""How long importing a compiler may take."""

BAN_SECONDS = 600.0
"""How long a kind that could not be served stays plain before it is tried again."""

GROWTH_BYTES = 256 << 20
"""A worker that has grown by so much since its import is retired."""

MOST_JOBS = 1000
"""A worker that has served so many is retired: what leaks slowly never adds up."""

SHORT_BYTES = 1 << 30
"""Free memory of the host below which idle workers give theirs back, and none is started."""

LOOK_SECONDS = 10.0
"""How often warm compilers are looked at: idle ones, grown ones, dead ones. Who needs one looks at it first."""

DEAD = "it is dead"


def _ignore(_: bool) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a worker must be, to serve a job.

    Attributes:
        place: Interpreter, compiler and variables.
        build: Which build of the compiler is there now. A worker of the same place and another build is retired.
        make: The command of a worker, from a folder that is there while it imports.
        holds: Whether the compiler is still of that build: asked once, when a worker has imported it.
    """

    place: Hashable
    build: str
    make: Callable[[Path], CommandLike]
    holds: Callable[[], bool]


@dataclass(slots=True)
class WarmCounts:
    """What became of jobs and workers.

    Attributes:
        warm: Jobs that a worker ran.
        plain: Jobs of a process of their own.
        again: Of those, jobs whose worker died under them.
        started: Workers.
        retired: Workers that were ended, for whatever reason; also those that had ended themselves.
        crashed: Workers that had ended themselves.
        unfit: Workers that could not be used: the import failed, or left a process that can't be forked.
    """

    warm: int = 0
    plain: int = 0
    again: int = 0
    started: int = 0
    retired: int = 0
    crashed: int = 0
    unfit: int = 0


class WarmCompilers:
    """Runs jobs in warm compilers where that works, else as plain subprocesses. From any thread.

    Args:
        most: Workers at a time; 0 switches them off. Elsewhere than on Linux there are none.
        idle: Seconds after which a worker that served nobody ends.
        memory_free: Bytes that the host has left now.
        groups: Where workers and jobs get control groups of their own.
        owner: As in `run`.
    """

    def __init__(
        self,
        *,
        most: int,
        idle: float,
        memory_free: Callable[[], int],
        groups: JobGroups | None = None,
        owner: str = "",
    ) -> None:
        self.counts = WarmCounts()
        self._most = most if sys.platform == "linux" and hasattr(os, "pidfd_open") else 0
        self._idle = idle
        self._memory_free = memory_free
        self._groups = groups
        self._owner = owner
        self._lock = threading.Lock()
        self._workers: dict[tuple[Hashable, str], Worker] = {}
        self._ending: list[Worker] = []
        self._banned: dict[tuple[Hashable, str], float] = {}
        self._numbers = itertools.count(1)
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    def run(
        self,
        command: CommandLike,
        kind: Kind,
        limits: Limits,
        *,
        log: Path,
        on_line: Callable[[str], None],
        stop: StopSignal,
        loading: Callable[[bool], None] = _ignore,
    ) -> Outcome:
        """As `build.run`: the command's program, arguments, variables and folder count in both ways of running it.

        A job whose worker died under it is run again, once, as a plain subprocess. Its time does not count the
        worker's start: `loading` is told when it begins to wait for a worker that imports its compiler, and when that
        is over; where one is ready, it is not told.
        """
        worker = self._take(kind)
        if worker is not None:
            try:
                outcome = self._warm(
                    worker, kind, command, limits, log=log, on_line=on_line, stop=stop, loading=loading
                )
            finally:
                with self._lock:
                    worker.busy -= 1
                    worker.used = time.monotonic()
            if outcome is not None:
                return outcome
        with self._lock:
            self.counts.plain += 1
        return run(command, limits, log=log, on_line=on_line, stop=stop, groups=self._groups, owner=self._owner)

    def counters(self) -> dict[str, int]:
        """`counts` and the number of workers, under the names that a status has for them."""
        with self._lock:
            counted = dataclasses.asdict(self.counts)
            jobs = {"warm_compiles": counted.pop("warm"), "plain_compiles": counted.pop("plain")}
            workers = {f"warm_{name}": number for name, number in counted.items()}
            return {**jobs, **workers, "warm_workers": len(self._workers)}

    def workers(self) -> list[Worker]:
        """Those that would get a job now."""
        with self._lock:
            return list(self._workers.values())

    def close(self) -> None:
        """End all workers, and wait until nothing of them is left. Jobs in them end too."""
        self._closing.set()
        with self._lock:
            left = [*self._workers.values(), *self._ending]
            keeper = self._keeper
            for key in list(self._workers):
                self._retire(key, "the daemon ends")
        for worker in left:
            worker.join()
        if keeper is not None:
            keeper.join()

    def look(self) -> None:
        """Retire who is dead, idle, too big, or in the way of a host that is short of memory."""
        short = bool(self.workers()) and self._memory_free() < SHORT_BYTES
        now = time.monotonic()
        with self._lock:
            for key, worker in list(self._workers.items()):
                why = self._why_retire(worker, now, short=short)
                if why:
                    self.counts.crashed += why == DEAD
                    self._retire(key, why)
            self._ending = [worker for worker in self._ending if not worker.gone()]

    def _why_retire(self, worker: Worker, now: float, *, short: bool) -> str:
        if not worker.alive():
            return DEAD
        if worker.busy:
            return ""
        if now >= worker.used + self._idle:
            return f"it was idle for {self._idle:g} s"
        if worker.baseline and worker.memory() > worker.baseline + GROWTH_BYTES:
            return "it has grown"
        if worker.jobs >= MOST_JOBS:
            return f"it served {worker.jobs} jobs"
        return "the host is short of memory" if short else ""

    def _take(self, kind: Kind) -> Worker | None:
        """A worker for a job, counted as busy; None where there shall be none."""
        if not self._most or self._closing.is_set():
            return None
        self.look()
        short = self._memory_free() < SHORT_BYTES
        key = (kind.place, kind.build)
        with self._lock:
            for other in list(self._workers):
                if other[0] == kind.place and other[1] != kind.build and not self._workers[other].busy:
                    self._retire(other, "its compiler was replaced")
            worker = self._workers.get(key)
            if worker is None:
                if short or self._banned.get(key, 0.0) > time.monotonic() or not self._make_room():
                    return None
                worker = self._start(key, kind)
            if worker is not None:
                worker.busy += 1
            return worker

    def _make_room(self) -> bool:
        """Whether there may be one more worker; who was idle the longest goes."""
        idle = [key for key, worker in self._workers.items() if not worker.busy]
        idle.sort(key=lambda key: -self._workers[key].used)
        while len(self._workers) >= self._most and idle:
            self._retire(idle.pop(), "another compiler needs its place")
        return len(self._workers) < self._most

    def _start(self, key: tuple[Hashable, str], kind: Kind) -> Worker | None:
        try:
            worker = Worker(kind.make, kind.holds, f"warm-{next(self._numbers)}", self._groups, self._owner)
        except OSError as error:
            logger.warning("no warm compiler can be started: %s", error)
            return None
        self._workers[key] = worker
        self.counts.started += 1
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="warm-keeper", daemon=True)
            self._keeper.start()
        return worker

    def _warm(
        self,
        worker: Worker,
        kind: Kind,
        command: CommandLike,
        limits: Limits,
        *,
        log: Path,
        on_line: Callable[[str], None],
        stop: StopSignal,
        loading: Callable[[bool], None],
    ) -> Outcome | None:
        """The job in a worker; None if it should be run in another way."""
        try:
            waits = not worker.is_ready()
            if waits:
                loading(True)
            try:
                if not worker.ready(START_SECONDS, stop):
                    return None  # stopped: the plain way knows how to say so
            finally:
                if waits:
                    loading(False)
            if not worker.is_of_its_build():
                self._give_up(worker, kind, "the compiler was replaced while it was imported", ban=False)
                return None
            forked = worker.fork()
        except UnfitError as error:
            with self._lock:
                self.counts.unfit += 1
            self._give_up(worker, kind, str(error))
            return None
        try:
            outcome = run(
                command,
                limits,
                log=log,
                on_line=on_line,
                stop=stop,
                start=lambda: forked,
                groups=self._groups,
                owner=self._owner,
            )
        finally:
            forked.close()
        if outcome.status == "lost" and worker.died():
            with self._lock:
                self.counts.again += 1
                self.counts.crashed += 1
            self._give_up(worker, kind, "it died under a job, which is tried again", ban=False)
            return None
        with self._lock:
            self.counts.warm += 1
        return outcome

    def _give_up(self, worker: Worker, kind: Kind, why: str, *, ban: bool = True) -> None:
        key = (kind.place, kind.build)
        with self._lock:
            if self._workers.get(key) is worker:
                if ban:
                    self._banned[key] = time.monotonic() + BAN_SECONDS
                self._retire(key, why)

    def _retire(self, key: tuple[Hashable, str], why: str) -> None:
        """Under the lock."""
        worker = self._workers.pop(key)
        self.counts.retired += 1
        logger.info("%s is retired: %s", worker.name, why)
        worker.retire()
        self._ending.append(worker)
        if len(self._banned) > 64:  # noqa: PLR2004 - a bound
            self._banned.clear()

    def _keep(self) -> None:
        while not self._closing.wait(min(LOOK_SECONDS, max(0.05, self._idle / 4))):
            self.look()
