"""What the service manager is told while the daemon lives: ready, how it is, that its loops turn, that it ends.

The watchdog is fed from the server's thread, and only while the engine's thread turns too: if either hangs, the manager
hears nothing and starts the daemon anew. What does not belong here: how it is told (``notify``).
Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlc_jitd import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXTEND_SECONDS = 20
"""How long, after the last word of a draining daemon, the manager waits before it kills it."""


PACE_SECONDS = 10.0
"""How often, at most, a thread with nothing to do turns all the same, to show that it can."""


class Loop(Protocol):
    """The engine."""

    @property
    def pulse(self) -> float:
        """When its thread last took its turn, by the monotonic clock."""

    def load(self) -> tuple[int, int]:
        """How many compiles run, and how many are queued."""


class Service:
    """Tells the manager; every method is silent where there is none.

    Args:
        home: What is served, for people.
        send: Sends one state.
        environ: Says how often the watchdog wants to hear from us.
    """

    def __init__(
        self, home: Path, *, send: Callable[[str], object] = notify.send, environ: Mapping[str, str] | None = None
    ) -> None:
        self._home = home
        self._send = send
        self._said = ""
        self._draining = False
        self.watchdog = watchdog_seconds(os.environ if environ is None else environ)
        self.pace = min(PACE_SECONDS, self.watchdog / 4) if self.watchdog else PACE_SECONDS
        """How often, in seconds, the server's thread and the engine's must turn for the watchdog to stay calm."""

    def waiting(self) -> None:
        """Another daemon still holds the lock."""
        self._tell(
            "waiting for the daemon that runs already to make way", f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS}000000"
        )

    def ready(self) -> None:
        """The socket is served."""
        self._tell(f"serving {self._home}", "READY=1")

    def stopping(self) -> None:
        """The daemon drains; from now on the manager waits as long as it hears from us."""
        self._draining = True
        self._tell("draining", "STOPPING=1", f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS}000000")

    def tick(self, engine: Loop) -> None:
        """At least every ``pace`` seconds, in the server's thread."""
        age = time.monotonic() - engine.pulse
        turning = age < (self.watchdog / 2 if self.watchdog else EXTEND_SECONDS)
        words = []
        if self.watchdog and turning:
            words.append("WATCHDOG=1")
        if self._draining and turning:
            words.append(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS}000000")
        running, queued = engine.load()
        jobs = f": {running} running, {queued} queued" if running or queued else ""
        self._tell(f"draining{jobs}" if self._draining else f"serving {self._home}{jobs}", *words)

    def _tell(self, status: str, *words: str) -> None:
        if status != self._said:
            self._said = status
            words = (*words, f"STATUS={status}")
        if words:
            self._send("\n".join(words))


def watchdog_seconds(environ: Mapping[str, str]) -> float:
    """How long the manager's watchdog stays calm without a word from this process; 0 where there is none."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(text) / 1e6


CGROUP = Path("/proc/self/cgroup")


def journal(environ: Mapping[str, str] | None = None) -> str:
    """The command that shows this process's log, where its standard error is systemd's journal; else nothing.

    Source: systemd.exec(5), JOURNAL_STREAM: the device and inode of the stream that leads there.
    """
    env = os.environ if environ is None else environ
    try:
        about = os.fstat(2)
        if env.get("JOURNAL_STREAM") != f"{about.st_dev}:{about.st_ino}":
            return ""
        groups = CGROUP.read_text()
    except OSError:
        return ""
    units = re.findall(r"([^/\s]+\.service)$", groups, re.MULTILINE)
    scope = "--user " if "MANAGERPID" in env or "user@" in groups else ""
    return f"journalctl {scope}-u {units[0].removesuffix('.service')}" if units else ""
