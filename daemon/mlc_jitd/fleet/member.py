"""A daemon that is one of a fleet: it asks the bucket for what is not here, and puts there what it compiled.

All of it beside the engine: nothing here is waited for by a hit. What does not belong here: how (`tier`).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jitd.elsewhere import unheard
from mlc_jitd.engine import Onlooker
from mlc_jitd.fleet.fetcher import Fetcher
from mlc_jitd.fleet.recency import Recency
from mlc_jitd.fleet.writer import Writer
from mlc_jitd.store import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.elsewhere import Arriving
    from mlc_jitd.fleet.leasing import Leasing
    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.identity import Identity
    from mlc_jitd.peers import Peer
    from mlc_jitd.store import Entry
    from mlc_jitd.work import LookUp

logger = logging.getLogger(__name__)

SHOWN = 5
"""Refusals in a status."""


class Member(Onlooker):
    """See the module's docstring. `start` and `close` are called once each.

    Args:
        tier: The bucket.
        leasing: Its leases, where they are wanted.
    """

    def __init__(self, tier: Tier, leasing: Leasing | None = None) -> None:
        self.tier = tier
        self._leasing = leasing
        self.recency = Recency(tier.bucket)
        ask = () if leasing is None else (leasing.ask,)
        self.writer = Writer(tier, tier.bucket.probe, self.recency.flush, *ask)
        self._fetcher = Fetcher(tier)
        self._redone: set[str] = set()

    def start(self) -> None:
        """Begin."""
        self.writer.start()

    def close(self) -> None:
        """Write what waits to be written, within a bound, and end."""
        self._fetcher.close()
        self.writer.offer("what was used", lambda: self.recency.flush(now=True))
        self.writer.close()

    def second_look(
        self, found: LookUp, done: Callable[[LookUp], None], told: Callable[[Arriving], None] = unheard
    ) -> None:
        """Ask the bucket for what is not here; see `Engine.ask_elsewhere`. ``told`` hears how far a library is."""
        self._fetcher.fetch(found.identity, lambda fetched: done(found.after(fetched)), told)

    def looked_up(self, peer: Peer, request: m.JitRequest, found: LookUp) -> None:  # noqa: ARG002 - an onlooker's
        """It is used."""
        if request.policy == "REDO":
            self._redone.add(found.identity.key)
        if isinstance(found.answer, Found):
            self.recency.note(found.identity.key)

    def published(self, identity: Identity, entry: Entry) -> None:
        """It was compiled here."""
        self.recency.note(identity.key)
        if self.tier.writes:
            # One that is there was compiled elsewhere at the same time, and is as good; but REDO means this one.
            again = entry.key in self._redone
            self.writer.offer(f"the library {entry.key[:12]}", lambda: self.tier.share(entry, again=again))
        self._redone.discard(entry.key)

    def complete(self, message: m.Message) -> m.Message:
        """Add how the bucket is to a status."""
        if not isinstance(message, m.Status):
            return message
        return dataclasses.replace(message, remote=self.report())

    def report(self) -> m.RemoteReport:
        """How the bucket is."""
        read, write = self.tier.bucket.health("read"), self.tier.bucket.health("write")
        troubles = [read.trouble and f"reading: {read.trouble}", write.trouble and f"writing: {write.trouble}"]
        return m.RemoteReport(
            url=self.tier.url,
            state="away" if not read.ok else "read-only" if self.tier.writes and not write.ok else "ok",
            role="builder" if self.tier.writes else "reader",
            detail="; ".join(filter(None, troubles)),
            again=max(read.pause, write.pause if self.tier.writes else 0.0),
            waiting=self.writer.waiting(),
            leases="" if self._leasing is None else self._leasing.why_not(),
            refused=tuple(f"{each.name}: {each.why}" for each in self.tier.refusals[-SHOWN:]),
        )
