"""What the silence of a daemon means: how long it has lasted, and what to do about it. Pure: time comes in as a value.

Who waits hears a heartbeat every two seconds. A first look is taken early, since a hit takes a thousandth of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mlc_jit.errors import DaemonUnavailableError
from mlc_jit.messages.frames import FIRST_PROBE_SECONDS, HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from mlc_jit.reach import Reach

PROBE_SECONDS = HEARTBEAT_SECONDS * 1.25

GREETED_SECONDS = 0.5
"""How long a daemon that nobody can find any more has for a word over a connection that it may still hold."""

Step = Literal["wait", "ask again", "greet"]


class Vigil:
    """One wait for a daemon's word.

    Attributes:
        path: The daemon's socket, for people.
        limit: Seconds of silence after which it is given up.
        heard: When it last said something, or when the wait began.
        due: When the next look at it is to be taken.
    """

    __slots__ = ("due", "greeted", "heard", "limit", "path")

    def __init__(self, path: Path, limit: float, heard: float) -> None:
        self.path = path
        self.limit = limit
        self.heard = heard
        self.due = heard + FIRST_PROBE_SECONDS
        self.greeted = False

    def word(self, now: float) -> None:
        """It said something."""
        self.heard = now
        self.due = now + PROBE_SECONDS
        self.greeted = False

    def silent(self, now: float, reach: Reach) -> Step:
        """It has said nothing until ``due``.

        Args:
            now: Monotonic seconds.
            reach: Whether anybody listens at its path.

        Returns:
            What to do until it is ``due`` again. ``ask again``: say again what was asked: a heartbeat is missing, so
            the daemon that was asked may have been replaced so quickly that nobody saw it go. One that still has the
            question ignores the second copy. ``greet``: the same and a greeting, which every daemon answers: one that
            drains has left its path, and still hears who is connected.

        Raises:
            DaemonUnavailableError: ``reason`` is ``gone`` (nobody listens any more, nor answers) or ``silent``.
        """
        quiet = now - self.heard
        if reach == "down":
            if self.greeted:
                raise DaemonUnavailableError("The mlc-jitd daemon ended.", reason="gone")
            self.greeted = True
            self.due = now + GREETED_SECONDS
            return "greet"
        if quiet >= self.limit:
            raise DaemonUnavailableError(
                f"The mlc-jitd daemon at {self.path} has said nothing for {quiet:.0f} s.",
                remedy="It may be stopped or overloaded; `mlc-jit status` asks it.",
                reason="silent",
            )
        self.due = now + min(PROBE_SECONDS, max(self.limit - quiet, 0.05))
        return "ask again" if quiet >= PROBE_SECONDS else "wait"
