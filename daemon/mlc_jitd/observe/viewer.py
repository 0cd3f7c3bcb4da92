"""How much of what happened somebody may see: who administers, all of it; anybody else, what they asked for. Pure.

Where one daemon serves one user, everything is that user's. What does not belong here: who may ask at all
(``access.roles``), and models' folders, of which a daemon of many users knows labels alone (``access.requests``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jitd.access import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlc_jitd.observe.record import JobRecord, Who
    from mlc_jitd.peers import Peer


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: ``uid`` by the kernel's word, and whether that one may see what is others'."""

    uid: int
    administers: bool

    @classmethod
    def of(cls, peer: Peer) -> Viewer:
        """Who is at the other end of a connection."""
        return cls(peer.uid, bool(peer.roles & Role.ADMINISTER))

    def knows(self, who: Who | None) -> bool:
        """Whether what a process did may be told."""
        return self.administers or (who is not None and who.uid == self.uid)

    def own(self, jobs: Iterable[JobRecord]) -> Iterator[JobRecord]:
        """The jobs that may be told; of those who waited with others, only how many there were."""
        for job in jobs:
            waiters = tuple(wait for wait in job.waiters if self.knows(wait.who))
            if waiters or self.administers:
                more = job.more + len(job.waiters) - len(waiters)
                yield dataclasses.replace(job, waiters=waiters, more=more)
