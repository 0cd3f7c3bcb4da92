"""When a daemon ends by itself: its place was taken, its installation replaced, or nobody has wanted anything for long.

Looked at about once a second in the server's thread, where the service manager is told how the daemon is, too. How a
daemon ends is the engine's (``drain``).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mlc_jitd.upgrade import Installation

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.door import Door
    from mlc_jitd.engine import Engine
    from mlc_jitd.idle import Idle
    from mlc_jitd.service import Service

logger = logging.getLogger(__name__)

DOOR_SECONDS = 2.0
UPGRADE_SECONDS = 3.0


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
        self._next_door = self._next_upgrade = 0.0
        self._leaving = False

    def tick(self) -> None:
        """Look around; quick, but for what the engine's helper thread does."""
        now = time.monotonic()
        self._service.tick(self._engine)
        if self._leaving:
            return
        if now >= self._next_door:
            self._next_door = now + DOOR_SECONDS
            self._check_door()
        if now >= self._next_upgrade:
            self._next_upgrade = now + UPGRADE_SECONDS
            self._engine.later(self._check_installation)
        if self._idle.due(now, messages=self._messages(), busy=self._engine.busy()):
            self._engine.leave_if_idle()

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
