"""Who uses which artifact: one file for each process, kept on a local disk, so that every collector sees it.

::

    <runtime>/<home>.leases/
        <pid>-<start>-<namespace>      a process: the artifacts that it was handed, one name a line
        conn-<pid>-<start>-<number>    a connection whose process the daemon with this pid can't see

A lease of a process ends with that process. The daemon hears of that at once (pidfd) where it gave the lease; everybody
who looks drops the files of dead ones, by pid and start time. A connection's lease, and one from another pid namespace,
holds while its file is young: the daemon that gave it keeps it so while the connection, or the process, lives. Where
it can't be told whether a holder lives, he does.

Whoever hands out an artifact leases it, **then** looks whether it and its manifest are there, and then replies. A
collector takes the manifest away, looks at the leases, and puts it back if one came. So nobody gets a path that is
being removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jitd.store.layout import ARTIFACT
from mlc_jitd.store.processes import namespace, program, started
from mlc_jitd.store.trouble import translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.deaths import Deaths

logger = logging.getLogger(__name__)

YOUNG_SECONDS = 3600.0
"""How long a lease holds whose holder can't be looked at, since it was last known to live."""

RENEW_SECONDS = 60.0
"""How often the daemon says which holders live."""

_MOST_CONNECTIONS = 16_384
"""Connections whose process is remembered; when there are more, all are looked up anew."""

_PROCESS = re.compile(r"(\d+)-(\d+)-(\d+)", re.ASCII)
_CONNECTION = re.compile(r"conn-(\d+)-(\d+)-(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease; ``pid`` is 0 for a connection whose process can't be seen."""

    name: str
    pid: int
    start: int

    def __str__(self) -> str:
        if not self.pid:
            return "a process in another pid namespace"
        shown = program(self.pid)
        return f"process {self.pid} ({shown})" if shown else f"process {self.pid}"


@dataclass(slots=True)
class _Given:
    """What this process leased to one holder; ``unwritten`` could not be put on the disk (yet)."""

    holder: Holder
    artifacts: set[str] = field(default_factory=set)
    unwritten: set[str] = field(default_factory=set)


class Leases:
    """The leases of one cache home on this host. Every method may be called from any thread.

    Args:
        folder: ``Locations.leases``; made when the first lease is given.
        deaths: Tells when a process ends. Without it, only looking tells.
        clock: Unix time.
        start_of: When a process began; see ``processes.started``.
        young: Seconds for which the lease of a holder that can't be looked at holds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deaths: Deaths | None = None,
        clock: Callable[[], float] = time.time,
        start_of: Callable[[int], int | None] = started,
        young: float = YOUNG_SECONDS,
    ) -> None:
        self._folder = folder
        self._deaths = deaths
        self._clock = clock
        self._start_of = start_of
        self._young = young
        self._namespace = namespace()
        self._lock = threading.Lock()
        self._given: dict[str, _Given] = {}
        self._connections: dict[bytes, _Given] = {}
        self._unseen: dict[bytes, _Given] = {}
        self._numbers = 0
        self.failures = 0
        """Leases that could not be written; other processes' collectors don't see those."""

    # --- giving -----------------------------------------------------------------------------------------------------

    def grant(self, connection: bytes, pid: int, artifact: str) -> bool:
        """Lease an artifact to the process behind a connection; a look into a set when it has it already.

        Args:
            connection: Names the connection, as long as it lives.
            pid: From the kernel; 0 where it does not tell.
            artifact: A file name.

        Returns:
            Whether it is the first time that it gets this one.

        Not guaranteed: that others see the lease when it can't be written, on a full disk, say (``failures``).
        """
        given = self._connections.get(connection)
        if given is None or given.holder.pid != pid or artifact not in given.artifacts:
            return self._grant(connection, pid, artifact)
        return False

    def _grant(self, connection: bytes, pid: int, artifact: str) -> bool:
        with self._lock:
            given = self._connections.get(connection)
            if given is None or given.holder.pid != pid:
                given = self._taker(connection, pid)
                if given is None:
                    return False  # it has ended, and needs nothing
                if len(self._connections) >= _MOST_CONNECTIONS:
                    self._connections.clear()
                self._connections[connection] = given
            if artifact in given.artifacts:
                return False
            self._write(given, {artifact})
            given.artifacts.add(artifact)  # last: whoever finds it in the set replies without a further look
            return True

    def _taker(self, connection: bytes, pid: int) -> _Given | None:
        if pid > 0:
            if self._deaths is not None and not self._deaths.watch(b"%d" % pid, pid):
                return None
            start = self._start_or_none(pid)  # after the watch: the pid is this process's until that tells its end
            if start is not None:
                return self._process(pid, start)
        if connection not in self._unseen:
            own = os.getpid()
            self._numbers += 1
            name = f"conn-{own}-{self._start_or_none(own) or 0}-{self._numbers}"
            self._unseen[connection] = self._given[name] = _Given(Holder(name, 0, 0))
        return self._unseen[connection]

    def _process(self, pid: int, start: int) -> _Given:
        holder = Holder(f"{pid}-{start}-{self._namespace}", pid, start)
        if holder.name not in self._given:
            known: set[str] = set()
            with contextlib.suppress(OSError):  # then it is written once more
                known.update(self._read(holder.name))
            self._given[holder.name] = _Given(holder, known)
        return self._given[holder.name]

    def _start_or_none(self, pid: int) -> int | None:
        try:
            return self._start_of(pid)
        except OSError:
            return None

    def _write(self, given: _Given, artifacts: set[str]) -> None:
        lines = "".join(f"{artifact}\n" for artifact in artifacts).encode()
        try:
            fd = self._append(given.holder.name)
            try:
                whole = os.write(fd, lines) == len(lines)
            finally:
                os.close(fd)
        except OSError:
            whole = False
        if whole:
            given.unwritten -= artifacts
        else:
            given.unwritten |= artifacts
            self.failures += 1

    def _append(self, name: str) -> int:
        path, flags = self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)

    # --- ending -----------------------------------------------------------------------------------------------------

    def revive(self) -> None:
        """Take over the leases that are on the disk, as a daemon does when it starts; those of dead holders go.

        Not guaranteed: that it hears of their ends where the folder can't be read; whoever looks later sees them.
        """
        try:
            living = self._living()
        except OSError as error:
            logger.warning("the leases in %s can't be read: %s", self._folder, error.strerror or error)
            return
        for holder in living:
            with self._lock:
                if holder.pid and self._ours(holder):
                    self._process(holder.pid, holder.start)
                    if self._deaths is not None:
                        self._deaths.watch(b"%d" % holder.pid, holder.pid)

    def reap(self) -> frozenset[str]:
        """End the leases of processes whose end was told since the last call; returns their artifacts. Quick."""
        if self._deaths is None:
            return frozenset()
        with self._lock:
            pids = {int(each) for each in self._deaths.ended()}
            return self._end([name for name in self._dead() if self._given[name].holder.pid in pids]) if pids else _NONE

    def disconnected(self, connection: bytes) -> None:
        """A connection has ended. If its process can't be seen, its lease is no longer renewed."""
        with self._lock:
            self._connections.pop(connection, None)
            given = self._unseen.pop(connection, None)
            if given is not None:
                self._given.pop(given.holder.name, None)

    def unseen(self) -> list[bytes]:
        """The connections whose process can't be seen: whether they live must be tried."""
        with self._lock:
            return list(self._unseen)

    def renew(self) -> frozenset[str]:
        """Say again which holders live, write what could not be written, and end the leases of those that have ended.

        Returns:
            The artifacts of those that have ended.
        """
        with self._lock:
            ended = self._end(self._dead())
            now = self._clock()
            for name, given in self._given.items():
                try:
                    os.utime(self._folder / name, (now, now))
                except OSError:  # a cleaner of /tmp took it, or it never came to be
                    given.unwritten |= given.artifacts
                if given.unwritten:
                    self._write(given, set(given.unwritten))
            return ended

    def _dead(self) -> list[str]:
        return [name for name, given in self._given.items() if not self._runs(given.holder)]

    def _runs(self, holder: Holder) -> bool:
        """Whether a holder's process, of this namespace, runs, as far as can be told."""
        try:
            return not holder.pid or self._start_of(holder.pid) == holder.start
        except OSError:
            return True

    def _end(self, names: list[str]) -> frozenset[str]:
        ended = [self._given.pop(name) for name in names]
        for given in ended:
            with contextlib.suppress(OSError):
                (self._folder / given.holder.name).unlink()
            if self._deaths is not None:
                self._deaths.forget(b"%d" % given.holder.pid)
        if ended:
            gone = {id(given) for given in ended}
            self._connections = {name: given for name, given in self._connections.items() if id(given) not in gone}
        return frozenset().union(*(given.artifacts for given in ended))

    # --- looking ----------------------------------------------------------------------------------------------------

    def held(self) -> dict[str, Holder]:
        """Every leased artifact and one who holds it; drops the leases of dead holders.

        A lease that was given before this call is in the answer.

        Raises:
            StoreError: A file can't be read, so that it is not known what is leased.
        """
        with translated("read the leases", self._folder):
            found = {name: holder for holder in self._living() for name in self._read(holder.name)}
        with self._lock:
            for given in self._given.values():
                if self._runs(given.holder):
                    found.update(dict.fromkeys(given.artifacts | given.unwritten, given.holder))
        return found

    def _living(self) -> list[Holder]:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - names are all that is wanted
        except (FileNotFoundError, NotADirectoryError):
            return []
        living = []
        for name in names:
            holder = _parse(name)
            if holder is None:
                continue
            if self._lives(holder):
                living.append(holder)
            else:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()
        return living

    def _lives(self, holder: Holder) -> bool:
        if holder.pid and self._ours(holder):
            return self._runs(holder)
        try:
            known = (self._folder / holder.name).stat().st_mtime
        except FileNotFoundError:
            return False
        return abs(self._clock() - known) < self._young

    def _ours(self, holder: Holder) -> bool:
        return holder.name.endswith(f"-{self._namespace}")

    def _read(self, name: str) -> list[str]:
        try:
            text = (self._folder / name).read_text("ascii", "replace")
        except FileNotFoundError:
            return []
        # Found wherever they stand: a line that was cut short by a full disk must not spoil the next.
        return [match[0] for match in ARTIFACT.finditer(text)]


_NONE: frozenset[str] = frozenset()


def _parse(name: str) -> Holder | None:
    if _CONNECTION.fullmatch(name):
        return Holder(name, 0, 0)
    match = _PROCESS.fullmatch(name)
    return Holder(name, int(match[1]), int(match[2])) if match else None
