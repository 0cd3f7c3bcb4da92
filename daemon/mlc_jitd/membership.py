"""Whether this host is one of a fleet. Nothing of `fleet` is imported unless a setting says that it is.

Trouble with a fleet is no reason not to serve: it is logged, and the status says it. What does not belong here: what
a fleet does.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import RequestError
from mlc_jitd.farming import Farming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlc_jitd.config import Settings
    from mlc_jitd.engine import Engine
    from mlc_jitd.farming import Fallback
    from mlc_jitd.fleet.farm import DaskFarm
    from mlc_jitd.fleet.leasing import Leasing
    from mlc_jitd.fleet.member import Member
    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.store import Entry
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)


class Membership:
    """See the module's docstring.

    Args:
        settings: Say which fleet, if any.
        work: Fetches from its bucket what is not here, from now on.
    """

    def __init__(self, settings: Settings, work: Work) -> None:
        self._url = settings.remote
        self._trouble = ""
        self._tier: Tier | None = None
        self._leasing: Leasing | None = None
        self._member: Member | None = None
        self._tasks: list[Callable[[], object]] = []
        self._farm = _farm(settings)
        work.farming = None if self._farm is None else Farming(self._farm, _fallback(settings))
        if not self._url:
            return
        from mlc_jitd.fleet.joining import join, lease  # noqa: PLC0415 - most hosts are in none

        try:
            work.elsewhere = self._tier = join(settings, work.store)
            work.fellows = self._leasing = lease(settings, self._tier)
        except RequestError as error:
            self._trouble = f"{error.message} {error.remedy}"
            logger.warning("%s It is done without.", self._trouble)
            return
        acceleration = work.compiler.acceleration
        if acceleration is not None:
            from mlc_jitd.fleet.pool import Pool  # noqa: PLC0415 - likewise

            acceleration.pool = Pool(self._tier, acceleration.store, self._later)

    def follow(self, engine: Engine) -> None:
        """Share what a daemon compiles, and show how the bucket is; to be called once."""
        if self._tier is None:
            if self._trouble:
                engine.addenda.append(self._unusable)
            return
        from mlc_jitd.fleet.member import Member  # noqa: PLC0415 - likewise

        self._member = Member(self._tier, self._leasing)
        engine.ask_elsewhere(self._member.second_look)
        engine.onlookers.append(self._member)
        engine.addenda.append(self._member.complete)
        self._member.start()

    def share(self, made: Iterable[Entry], *, again: bool) -> None:
        """Put what was compiled without a daemon into the bucket, and its kernels; waits for it, within bounds.

        Args:
            made: The libraries.
            again: Replace what this host's key signed before.
        """
        if self._tier is None:
            return
        for entry in made:
            self._tier.share(entry, again=again)
        for task in self._tasks:
            try:
                task()
            except Exception as error:  # noqa: BLE001 - the library is handed out, and that is what was asked for
                logger.warning("not everything was put into %s: %s", self._url, error)

    def close(self) -> None:
        """Write what waits to be written, within a bound."""
        if self._member is not None:
            self._member.close()
        if self._leasing is not None:
            self._leasing.close()
        if self._farm is not None:
            self._farm.close()

    def _later(self, what: str, task: Callable[[], object]) -> None:
        if self._member is not None:
            self._member.writer.offer(what, task)
        else:
            self._tasks.append(task)

    def _unusable(self, message: m.Message) -> m.Message:
        if not isinstance(message, m.Status):
            return message
        report = m.RemoteReport(url=self._url, state="unusable", role="", detail=self._trouble)
        return dataclasses.replace(message, remote=report)


def _farm(settings: Settings) -> DaskFarm | None:
    if not settings.executor:
        return None
    from mlc_jitd.fleet.farm import DaskFarm  # noqa: PLC0415 - most hosts have none

    return DaskFarm(settings.executor)


def _fallback(settings: Settings) -> Fallback:
    return "fail" if settings.executor_fallback == "fail" else "local"
