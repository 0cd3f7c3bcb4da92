"""Whether an engine's create-only puts are what they say: asked once at the start, with objects of our own.

An engine that answers success and overwrites would hand one lease to everybody. What does not belong here: leases.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Literal

from mlc_jitd.fleet.objects import AbsentError, DeniedError, ExistsError, FaultError, RemoteError

if TYPE_CHECKING:
    from mlc_jitd.fleet.objects import Bucket

logger = logging.getLogger(__name__)

PROBES = "v1/leases-probe"
ONCE, AGAIN = f"{PROBES}/once", f"{PROBES}/again"
PROBE_BYTES = 64
MOST_PROBES = 100
AGAIN_SECONDS = 60.0
"""How long after a fault the engine is asked again."""

State = Literal["off", "watch", "full"]
"""No leases at all; leases of others are waited for; and taken."""


def probe(bucket: Bucket) -> tuple[State, str]:
    """What leases this engine allows, and why not all. Two small objects stay, the same for all hosts.

    Raises:
        FaultError: It did not answer, so nothing is known.
    """
    try:
        for content in (b"first", b"second"):
            try:
                bucket.put(ONCE, content, create=True)
            except ExistsError:
                continue
            if content == b"second":
                return "off", "the engine overwrites what is to be created only once (it ignores If-None-Match)"
        if _read(bucket, ONCE) != b"first":
            return "off", "the engine says that it refuses to overwrite, and does"
        bucket.put(AGAIN, secrets.token_hex(8).encode())
        if not {ONCE, AGAIN} <= {each.name for each in bucket.list(PROBES, most=MOST_PROBES)}:
            return "off", "the engine does not list what was just written"
    except DeniedError as error:
        return "watch", f"this host may not write there ({error})"
    except FaultError:
        raise
    except RemoteError as error:
        return "off", f"the engine can't do what leases need ({error})"
    return "full", ""


def _read(bucket: Bucket, name: str) -> bytes | None:
    try:
        return bucket.get(name, most=PROBE_BYTES).data
    except AbsentError:
        return None


class Reliance:
    """What leases an engine allows; ``off`` until that is known. From any thread.

    Args:
        bucket: The engine.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.state: State = "off"
        self.why = ""
        """Why leases are not all there; also why nothing is known."""
        self._bucket = bucket
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._known = False

    def ask(self) -> None:
        """Probe the engine, unless that is known or failed a moment ago; it never raises.

        Who comes while it is being done waits for it: some requests' time.
        """
        with self._lock:
            recently = self._asked is not None and time.monotonic() - self._asked < AGAIN_SECONDS
            if not self._known and not recently:
                self._probe()
                self._asked = time.monotonic()

    def _probe(self) -> None:
        try:
            self.state, self.why = probe(self._bucket)
        except RemoteError as error:
            self.why = str(error)
            return
        self._known = True
        if self.state == "full":
            logger.info("the bucket's create-only puts hold: one compile for the fleet")
        else:
            logger.warning("no leases for this host's compiles: %s", self.why)
