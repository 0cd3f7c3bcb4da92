"""A bucket as settings describe it, opened: what the daemon, `mlc-jitd once` and the verbs share.

What does not belong here: the daemon's threads (`member`).
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import RequestError
from mlc_jitd.elsewhere import unheard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.config import Settings
    from mlc_jitd.elsewhere import Arriving
    from mlc_jitd.fleet.leasing import Leasing
    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.identity import Identity
    from mlc_jitd.store import Entry, Store

EXTRA = "pip install 'mlc-jitd[fleet]'"

LEASE_REQUEST_SECONDS = 5.0
"""How long one request of a lease may take: its objects have a few hundred bytes. It comes on top of the lease time
where a host waits in vain, and with 30 s of that a holder outlives two signs of life in a row that get lost."""


def join(settings: Settings, store: Store) -> Tier:
    """The bucket that `remote` names, with the keys that go with it. Nothing is asked of it yet.

    Raises:
        RequestError: Settings contradict each other or reality: the extra is missing, a key is none.
    """
    try:
        from mlc_jitd.fleet.guard import Guard  # noqa: PLC0415 - the extra may be missing
        from mlc_jitd.fleet.keys import read_key, read_trust  # noqa: PLC0415 - likewise
        from mlc_jitd.fleet.objects import Limits, RemoteError, open_bucket  # noqa: PLC0415 - likewise
        from mlc_jitd.fleet.tier import Tier  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise RequestError(f"`remote` is set, and {error.name} is not installed.", remedy=f"{EXTRA}.") from error
    key = read_key(Path(settings.remote_key)) if settings.remote_key else None
    trust = read_trust(settings.remote_trust, key)
    writes = settings.remote_write == "always" or (settings.remote_write == "builders" and key is not None)
    if not trust.keys and not trust.anyone and not writes:
        raise RequestError(
            f"{settings.remote} is of no use: nobody's libraries are trusted, and none are put there.",
            remedy="Set remote_trust to the public keys of those who build; docs/fleet.md has the roles.",
        )
    try:
        bucket = open_bucket(settings.remote, Limits(seconds=settings.remote_seconds))
    except (RemoteError, ImportError) as error:
        why = f"{error.name} is not installed" if isinstance(error, ImportError) else str(error)
        raise RequestError(
            f"{settings.remote} can't be used: {why}.", remedy=f"Correct `remote`, or {EXTRA}."
        ) from error
    return Tier(settings.remote, Guard(bucket), store, trust=trust, key=key, writes=writes)


def lease(settings: Settings, tier: Tier) -> Leasing | None:
    """The leases of a bucket, if they are wanted. Nothing is asked of it yet."""
    if not settings.remote_lease_seconds:
        return None
    from mlc_jitd.fleet.guard import Guard  # noqa: PLC0415 - the extra may be missing
    from mlc_jitd.fleet.lease import Terms  # noqa: PLC0415 - likewise
    from mlc_jitd.fleet.leasing import Leasing  # noqa: PLC0415 - likewise
    from mlc_jitd.fleet.objects import Limits, open_bucket  # noqa: PLC0415 - likewise
    from mlc_jitd.fleet.reliance import Reliance  # noqa: PLC0415 - likewise

    # A door of its own: what is slow or refused of libraries says nothing of leases, and their requests are short.
    # Who waits for a lease has the time to see whether the bucket is back.
    bucket = Guard(open_bucket(settings.remote, Limits(seconds=LEASE_REQUEST_SECONDS)), unattended=True)
    seconds = settings.remote_lease_seconds
    terms = Terms(lease=seconds, first=min(1.0, seconds / 8), longest=settings.compile_seconds)

    def fetch(
        identity: Identity, *, locked: bool, known: float = 0.0, told: Callable[[Arriving], None] = unheard
    ) -> Entry | None:
        return tier.fetch(identity, locked=locked, known=known, told=told).entry

    leasing = Leasing(bucket, fetch, Reliance(bucket), terms, host=socket.gethostname(), writes=tier.writes)
    tier.publishing, tier.withheld = leasing.publishing, leasing.withhold
    return leasing
