"""SIGHUP: settings read anew while the daemon runs. What can change does; the rest is named in the log.

What does not belong here: how a setting takes effect (``app`` says which room is told).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from mlc_jitd import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlc_jitd.config import Found, Settings

logger = logging.getLogger(__name__)


class Reload:
    """Reads and applies; called in the engine's thread.

    Args:
        settings: What the daemon began with.
        read: Looks at files and variables again.
        takers: For each live setting, who takes the new settings.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Found], takers: Mapping[str, Callable[[Settings], None]]
    ) -> None:
        self._settings = settings
        self._read = read
        self._takers = takers

    def __call__(self) -> None:
        """Do it. A slip in a file means that nothing changes: half of what somebody wrote is not what they want.

        One in a variable or flag has been there since the start, and no reload can mend it: it is passed over again.
        """
        notify.send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            self._reload()
        finally:
            notify.send("READY=1")

    def _reload(self) -> None:
        found = self._read()
        for slip in found.slips:
            if slip not in found.in_files:
                logger.warning("%s It is passed over. %s", slip.message, slip.remedy)
        for slip in found.in_files:
            logger.error("%s %s", slip.message, slip.remedy)
        if found.in_files:
            logger.error("the settings stay as they were")
            return
        new = found.settings
        changed = [each.name for each in dataclasses.fields(new) if getattr(new, each.name) != self._value(each.name)]
        live = [name for name in changed if name in self._takers]
        waiting = [name for name in changed if name not in self._takers]
        for taker in dict.fromkeys(self._takers[name] for name in live):
            taker(new)
        for name in live:
            logger.info("%s: %s, was %s", name, getattr(new, name), self._value(name))
        for name in waiting:
            logger.warning("%s stays %s until the daemon is started again", name, self._value(name))
        if not changed:
            logger.info("reloaded: no setting has changed")
        self._settings = dataclasses.replace(self._settings, **{name: getattr(new, name) for name in live})

    def _value(self, name: str) -> object:
        return getattr(self._settings, name)
