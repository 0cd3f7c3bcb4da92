"""When a daemon ends by itself: its place was taken, its installation replaced, or nobody has wanted anything for long.

What files say is looked at in the daemon's rounds. Whether it is idle is seen in the server's thread, where the service
manager is told how the daemon is, too: what it hears says that this thread turns. How a daemon ends is the engine's
(``drain``).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mlc_jitd.server import TICK_SECONDS
from mlc_jitd.upgrade import Installation

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.door import Door
    from mlc_jitd.engine import Engine
    from mlc_jitd.idle import Idle
    from mlc_jitd.service import Service

logger = logging.getLogger(__name__)

UPGRADE_SECONDS = 3.0
SOON_SECONDS = 60.0
"""Who is to end after less than that is asked every second whether it is time."""


class Life:
    """See the module's docstring.

    Args:
        engine: Is drained.
        door: May be lost to somebody else; given up when the daemon drains.
        service: Tells the service manager.
        idle: Knows when it has been quiet for long.
        messages: How many messages have ever come.
    """

    def __init__(self, engine: Engine, door: Door, service: Service, idle: Idle, messages: Callable[[], int]) -> None:
        self._engine = engine
        self._door = door
        self._service = service
        self._idle = idle
        self._messages = messages
        self._installation = Installation.own()
        self._next_upgrade = 0.0
        self._leaving = False

    @property
    def pace(self) -> float:
        """How often, in seconds, a thread with nothing to do shows that it turns."""
        return self._service.pace

    def tick(self) -> float:
        """Tell the service manager, and see whether it is time to leave. In the server's thread; quick.

        Returns:
            In how many seconds it is to be called again.
        """
        now = time.monotonic()
        self._service.tick(self._engine)
        if self._leaving:
            return TICK_SECONDS
        busy = self._engine.busy()
        if self._idle.due(now, messages=self._messages(), busy=busy):
            self._engine.leave_if_idle()
        soon = self._idle.on_demand and 0 < self._idle.seconds < SOON_SECONDS
        return TICK_SECONDS if busy or soon else self._service.pace

    def look_around(self) -> None:
        """See whether the socket's path still leads here; in the daemon's rounds."""
        if not self._leaving:
            self._check_door()

    def look_at_installation(self) -> None:
        """See whether what this process was started from was replaced; in the daemon's rounds."""
        now = time.monotonic()
        if not self._leaving and now >= self._next_upgrade:
            self._next_upgrade = now + UPGRADE_SECONDS
            self._check_installation()

    def retire(self) -> None:
        """The daemon drains."""
        self._leaving = True
        self._service.stopping()
        self._door.retire()

    def _check_door(self) -> None:
        if not self._door.still_ours():
            logger.warning("%s no longer leads here; draining", self._door.places.socket)
            self._engine.drain()

    def _check_installation(self) -> None:
        why = self._installation.replaced()
        if why:
            logger.warning("this daemon's own installation was replaced (%s): the next request starts the new one", why)
            self._engine.drain()
