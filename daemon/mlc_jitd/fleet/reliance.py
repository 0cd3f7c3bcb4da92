"""Whether an engine's create-only puts are what they say: asked once at the start, with objects of our own.

An engine that answers success and overwrites would hand one lease to everybody. What does not belong here: leases.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Literal

from mlc_jitd.fleet.objects import AbsentError, ChangedError, DeniedError, ExistsError, FaultError, RemoteError

if TYPE_CHECKING:
    from mlc_jitd.fleet.objects import Bucket

logger = logging.getLogger(__name__)

PROBES = "v1/leases-probe"
PROBE_BYTES = 64
AGAIN_SECONDS = 60.0
"""How long after a fault the engine is asked again."""

State = Literal["off", "watch", "full"]
"""No leases at all; leases of others are waited for; and taken."""


def probe(bucket: Bucket) -> tuple[State, str]:
    """What leases this engine allows, and why not all.

    Raises:
        FaultError: It did not answer, so nothing is known.
    """
    name = f"{PROBES}/{secrets.token_hex(16)}"
    try:
        return _try(bucket, name)
    except DeniedError as error:
        return "watch", f"this host may not write there ({error})"
    except FaultError:
        raise
    except RemoteError as error:
        return "off", f"the engine can't do what leases need ({error})"


def _try(bucket: Bucket, name: str) -> tuple[State, str]:
    try:
        bucket.put(name, b"first", create=True)
    except ExistsError:
        # Nobody else knows the name: a try of ours whose reply was lost, or an engine that refuses all.
        if _read(bucket, name) != b"first":
            return "off", "the engine refuses to create what is not there"
    try:
        try:
            bucket.put(name, b"second", create=True)
        except (ExistsError, ChangedError):
            pass
        else:
            return "off", "the engine overwrites what is to be created only once (it ignores If-None-Match)"
        if _read(bucket, name) != b"first":
            return "off", "the engine refuses to create what is there, and overwrites it all the same"
        bucket.put(name, b"third")
        if _read(bucket, name) != b"third":
            return "off", "the engine does not show what was written last"
        if name not in {each.name for each in bucket.list(PROBES, most=100_000)}:
            return "off", "the engine does not list what was written last"
    finally:
        try:
            bucket.delete([name])
        except RemoteError as error:
            logger.debug("the probe %s stays: %s", name, error)
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
        self.why = "the bucket has not answered yet"
        self._bucket = bucket
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._known = False

    def ask(self) -> None:
        """Probe the engine, unless that is known, is being done, or failed a moment ago; it never raises."""
        with self._lock:
            recently = self._asked is not None and time.monotonic() - self._asked < AGAIN_SECONDS
            if self._known or recently:
                return
            self._asked = time.monotonic()
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
