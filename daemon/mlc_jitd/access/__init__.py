"""Many users on one daemon: who may do what, what of a request counts, how much one user may have.

    roles      who may do what, by the kernel's word for a connection; pure
    requests   what a client sends, as the daemon takes it: nothing that it names is executed; pure
    meter      how much one user may ask at a time; pure
    allowance  what one user has had made; pure
    audit      a line for each compile
    guard      the shell around these, in the server's thread
    keeping    pins without model folders

A daemon of one user has none of this. docs/security.md is the document.
"""

from __future__ import annotations

from mlc_jitd.access.allowance import Allowance, BoundedQueue
from mlc_jitd.access.audit import Audit
from mlc_jitd.access.guard import Guard, PeerGroupsError, require_peer_groups
from mlc_jitd.access.keeping import Keeping
from mlc_jitd.access.meter import Limits, Meter
from mlc_jitd.access.requests import Desk
from mlc_jitd.access.roles import ALL, NONE, Role, Rules

__all__ = [
    "ALL",
    "NONE",
    "Allowance",
    "Audit",
    "BoundedQueue",
    "Desk",
    "Guard",
    "Keeping",
    "Limits",
    "Meter",
    "PeerGroupsError",
    "Role",
    "Rules",
    "require_peer_groups",
]
