"""What happens to an entry that is about to be handed out: it is leased to who asked, and its use is noted.

On the hit path, in the server's thread: two looks into sets for who has the entry already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlc_jitd.server import Peer
    from mlc_jitd.store import Entry, Leases, Uses


class Lending:
    """Lends the entries of one home. From any thread.

    Args:
        leases: The leases of this host.
        uses: The last uses.
    """

    def __init__(self, leases: Leases, uses: Uses) -> None:
        self.leases = leases
        self.uses = uses

    def lend(self, peer: Peer, entry: Entry) -> None:
        """Lease an entry to a peer; who replies looks afterwards whether it is (still) there."""
        self.leases.grant(peer.identity, peer.pid, entry.manifest.artifact)
        self.uses.note(entry.key)
