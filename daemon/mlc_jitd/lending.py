"""What happens to an entry that is about to be handed out: it is leased to who asked, and its use is noted.

On the hit path, in the server's thread: two looks into sets for who has the entry already.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import JitError
from mlc_jit.locations import locate, private_folder
from mlc_jitd.store import Leases
from mlc_jitd.tally import Tally

if TYPE_CHECKING:
    from mlc_jitd.store import Entry, Uses


class Lending:
    """Lends the entries of one home. From any thread.

    Args:
        leases: The leases of this host.
        uses: The last uses.
    """

    def __init__(self, leases: Leases, uses: Uses) -> None:
        self.leases = leases
        self.uses = uses
        self.tally = Tally()
        """Of processes and libraries: how many got one, and what those took to compile. The first time each counts."""

    def lend(self, connection: bytes, pid: int, entry: Entry) -> None:
        """Lease an entry; who replies looks afterwards whether it is (still) there.

        Args:
            connection: Names the connection that asked.
            pid: Of the process behind it, from the kernel; 0 where it does not tell.
            entry: What it gets.
        """
        if self.leases.grant(connection, pid, entry.manifest.artifact):
            self.tally.add("lent")
            self.tally.add("lent_milliseconds", round(entry.manifest.compile.seconds * 1000))
        self.uses.note(entry.key)


def leases_here() -> Leases:
    """The leases of this environment's home, for a process that is no daemon.

    Where there can be no private folder for them, leases can't be seen by others; what was used a moment ago is spared.
    """
    try:
        places = locate()
        private_folder(places.runtime)
    except JitError:
        return Leases(Path(os.devnull) / "leases")
    return Leases(places.leases)
