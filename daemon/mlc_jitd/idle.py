"""When a daemon that starts on demand may end: nobody has wanted anything for a while. Pure but for its callers.

Leaving is ``Engine.leave_if_idle``: the door is retired first, then the queue is looked at again, so that who comes in
between is served or sent to the next daemon.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Idle:
    """Notices idleness.

    Attributes:
        on_demand: Whether this daemon may end at all: whoever needs one starts it.
        seconds: How long nothing may happen; 0 for ever.
        wanted: Whether somebody is connected, who would connect again and so wake the next daemon.
    """

    on_demand: bool
    seconds: float
    wanted: Callable[[], bool] = lambda: False
    _messages: int = field(default=-1, init=False)
    _since: float = field(default=0.0, init=False)

    def due(self, now: float, *, messages: int, busy: bool) -> bool:
        """Whether it is time to leave.

        Args:
            now: By a monotonic clock, in seconds.
            messages: How many messages have ever come.
            busy: Whether anything is asked, queued or running.
        """
        if busy or self.wanted() or messages != self._messages:
            self._messages, self._since = messages, now
            return False
        return self.on_demand and 0 < self.seconds <= now - self._since
