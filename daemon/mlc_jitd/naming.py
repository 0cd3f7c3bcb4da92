"""When copies are put under upstream's names: after a publish, and when an entry is first handed out for a request.

In a thread of its own, one at a time, behind everybody's replies: asking a compiler for upstream's hash takes seconds
where it is not remembered. What does not belong here: which names, and when not (``upstream``).
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlc_jit.errors import JitError
from mlc_jit.messages import Status
from mlc_jitd.engine import Onlooker
from mlc_jitd.store import Found
from mlc_jitd.tally import Tally

if TYPE_CHECKING:
    from mlc_jit.messages import JitRequest, Message
    from mlc_jitd.identity import Identity
    from mlc_jitd.peers import Peer
    from mlc_jitd.store import Entry
    from mlc_jitd.upstream import Upstream
    from mlc_jitd.work import LookUp

logger = logging.getLogger(__name__)

REMEMBERED = 1024
"""Keys of which it is known that their entry was seen to, and keys whose requests wait for their library."""

TEXTS = 4
"""Different requests of one key: each device text and each way to write the overrides is another name for upstream."""


class Naming(Onlooker):
    """Follows the engine and puts copies of entries where upstream looks.

    Args:
        upstream: Does it.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._tally = Tally()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="naming")
        self._closed = False
        self._asked: OrderedDict[str, list[JitRequest]] = OrderedDict()
        self._seen_to: OrderedDict[str, None] = OrderedDict()

    def start(self) -> None:
        """Look after what a crash may have left."""
        self._pool.submit(self._sweep)

    def close(self) -> None:
        """Begin nothing more. What was not done is done when the entry is next handed out by a fresh daemon."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def complete(self, message: Message) -> Message:
        """A status with how often what became of a name."""
        if not isinstance(message, Status):
            return message
        return dataclasses.replace(message, counters=message.counters | self._tally.read("upstream_"))

    def looked_up(self, peer: Peer, request: JitRequest, found: LookUp) -> None:
        """See ``Onlooker``."""
        del peer
        key = found.identity.key
        if found.identity.toolchain.name != "mlc_llm":
            return
        if isinstance(found.answer, Found) and request.policy != "REDO":
            if _first(self._seen_to, key):
                self._later(request, found.identity, found.answer.entry, again=False)
        elif request.policy != "READONLY":
            requests = self._asked.setdefault(key, [])
            if len(requests) < TEXTS and not any(_same_name(request, each) for each in requests):
                requests.append(request)
            if len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)

    def published(self, identity: Identity, entry: Entry) -> None:
        """See ``Onlooker``."""
        _first(self._seen_to, identity.key)
        for request in self._asked.pop(identity.key, ()):
            self._later(request, identity, entry)

    def _later(self, request: JitRequest, identity: Identity, entry: Entry, *, again: bool = True) -> None:
        try:
            self._pool.submit(self._place, request, identity, entry, again=again)
        except RuntimeError:  # closed, or no thread to be had
            self._tally.add("failed")

    def _place(self, request: JitRequest, identity: Identity, entry: Entry, *, again: bool) -> None:
        """Do it; an entry that has a name already gets no other one for a hit: that could mean to import a compiler."""
        try:
            if not again and self._upstream.files.named(entry.key):
                return
            for placed in self._upstream.place(request, identity, entry).values():
                self._tally.add(placed.replace("-", "_"))
        except (JitError, OSError) as error:
            if self._closed:
                return  # the compiler that was being asked was ended
            self._tally.add("failed")
            logger.warning("%s was not put under upstream's name: %s", entry.key[:12], error)
        except Exception:
            self._tally.add("failed")
            logger.exception("%s was not put under upstream's name", entry.key[:12])

    def _sweep(self) -> None:
        try:
            removed = self._upstream.sweep()
        except (JitError, OSError) as error:
            logger.warning("copies of entries that are gone could not be removed: %s", error)
        else:
            if removed:
                logger.info("removed copies under upstream's names of entries that are gone: %d bytes", removed)


def _first(seen: OrderedDict[str, None], key: str) -> bool:
    """Whether a key is met for the first time; now it has been."""
    if key in seen:
        return False
    seen[key] = None
    if len(seen) > REMEMBERED:
        seen.popitem(last=False)
    return True


def _same_name(one: JitRequest, other: JitRequest) -> bool:
    return (one.config, one.device, one.opt, one.overrides, one.system_lib_prefix) == (
        other.config, other.device, other.opt, other.overrides, other.system_lib_prefix,
    )  # fmt: skip
