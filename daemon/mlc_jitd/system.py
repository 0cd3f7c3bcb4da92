"""The mode in which one daemon serves many users: `access` wired to settings, engine and work. Decides nothing.

Here a slip in the settings ends the start: what a daemon of one user may pass over could open this one to others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import RequestError, StoreUnwritableError
from mlc_jit.locations import SYSTEM_SOCKET
from mlc_jitd.access import (
    Allowance,
    Audit,
    BoundedQueue,
    Desk,
    Guard,
    Keeping,
    Limits,
    Meter,
    Rules,
    require_peer_groups,
)
from mlc_jitd.access.requests import DEFAULT_VARIABLES
from mlc_jitd.config import Settings
from mlc_jitd.named import Named, parse_toolchains
from mlc_jitd.store.access import distrust
from mlc_jitd.watch.keeping import keep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlc_jitd.asks import Asks
    from mlc_jitd.engine import Engine
    from mlc_jitd.schedule.jobs import Settings as QueueSettings
    from mlc_jitd.schedule.queue import Queue
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)

AUDIT = "audit.jsonl"
PLACES = {
    "MLC_LLM_HOME": "/var/cache/mlc-jitd",
    "MLC_JITD_RUNTIME_DIR": os.fspath(SYSTEM_SOCKET.parent),
    "MLC_JITD_SOCKET": os.fspath(SYSTEM_SOCKET),
}
"""Where a system daemon is, where its environment does not say otherwise."""

OPEN = stat.S_IROTH | stat.S_IXOTH
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class System:
    """See the module's docstring.

    Args:
        settings: With ``mode`` system.
    """

    def __init__(self, settings: Settings) -> None:
        toolchains = parse_toolchains(settings.toolchains) or (Named("default", sys.executable),)
        for each in toolchains:
            _require_safe(each)
        variables = frozenset({*DEFAULT_VARIABLES, *filter(None, settings.client_variables.split(":"))})
        desk = Desk(toolchains, variables, path=os.environ.get("PATH", DEFAULT_PATH), secret=secrets.token_bytes(16))
        self.guard = Guard(_rules(settings), desk, Meter(_limits(settings)))
        self._allowance = Allowance(settings.user_bytes)
        logger.info("compilers: %s", ", ".join(f"{each.name} ({each.python})" for each in toolchains))

    @classmethod
    def of(cls, settings: Settings, flags: Mapping[str, str] | None) -> System | None:
        """The mode as the settings want it; nothing for a daemon of one user.

        Raises:
            RequestError: Something in the settings is wrong, or this system does not tell who is connected.
        """
        if settings.mode != "system":
            return None
        Settings.load(flags=flags)
        require_peer_groups()
        for name, path in PLACES.items():
            os.environ.setdefault(name, path)
        made = cls(settings)
        with contextlib.suppress(OSError):  # said in better words by whoever needs it
            Path(os.environ["MLC_JITD_RUNTIME_DIR"]).mkdir(mode=0o755)
        return made

    def queue(self, settings: QueueSettings) -> Queue:
        """The queue of compiles."""
        return BoundedQueue(settings, self._allowance)

    def open(self, engine: Engine, work: Work, asks: Asks) -> dict[str, Callable[[Settings], None]]:
        """Join the rooms, before anything is served.

        Returns:
            How each live setting of this mode takes effect.

        Raises:
            StoreUnwritableError: No line could be written about what is compiled.
        """
        audit = Audit(work.store.layout.home / AUDIT, self.guard.desk.asked, self._allowance)
        try:
            audit.begin()
        except OSError as error:
            raise StoreUnwritableError(
                f"{work.store.layout.home / AUDIT} can't be used: {error.strerror or error}.",
                remedy="Compiles of a system daemon are audited: make it writable for the daemon's user alone.",
            ) from error
        engine.onlookers.append(audit)
        engine.addenda.append(self._complete)
        for path in (work.store.layout.home, work.store.layout.library):
            if path.stat().st_mode & OPEN != OPEN:
                logger.warning("%s is closed to users, who can't load what is in it. Run: chmod o+rx %s", path, path)
        by_key: Callable[[m.Keep, float], m.Kept] = lambda message, now: keep(work, asks, message, now=now)  # noqa: E731
        engine.verbs[m.Keep] = Keeping(work, by_key, later=engine.later, reply=engine.reply).asked
        return self._takers()

    def _complete(self, message: m.Message) -> m.Message:
        """A status with what the guard did."""
        if isinstance(message, m.Status):
            return dataclasses.replace(message, counters=message.counters | dict(self.guard.counters))
        return message

    def _takers(self) -> dict[str, Callable[[Settings], None]]:

        def who(settings: Settings) -> None:
            self.guard.rules = _rules(settings)
            self.guard.forget(None)

        def limits(settings: Settings) -> None:
            self._allowance.limit = settings.user_bytes
            self.guard.meter.limits = _limits(settings)

        return {
            "users": who,
            "prewarmers": who,
            "admins": who,
            "user_bytes": limits,
            "user_connections": limits,
        }


def _rules(settings: Settings) -> Rules:
    rules, unknown = Rules.of(settings.users, settings.prewarmers, settings.admins)
    for name in unknown:
        logger.warning("this host knows no %s: nobody has a role by it", name)
    return rules


def _limits(settings: Settings) -> Limits:
    return Limits(connections=settings.user_connections)


def _require_safe(toolchain: Named) -> None:
    """Refuse an interpreter that somebody else could replace: it, and each folder above it.

    That of a virtual environment is a link, and takes its packages from where the link lies: folders above that count.
    """
    named, real = Path(os.path.abspath(toolchain.python)), Path(toolchain.python).resolve()  # noqa: PTH100 - links stay
    for path in dict.fromkeys((real, *real.parents, *named.parents)):
        try:
            about = path.stat()
        except OSError as error:
            raise RequestError(
                f"The interpreter of the toolchain `{toolchain.name}`, {toolchain.python}, can't be "
                f"used: {error.strerror}.",
                remedy="Correct `toolchains`.",
            ) from error
        shared = path != real and about.st_mode & stat.S_ISVTX
        doubt = None if shared else distrust(about, path)
        if doubt is not None:
            raise RequestError(
                f"The toolchain `{toolchain.name}` is not safe to run for others: {doubt[0]}.", remedy=doubt[1]
            )
