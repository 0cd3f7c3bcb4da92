"""``mlc-jitd once``: one request, in one process, without a daemon; the same identity, store, locks and build.

A request (one msgpack message, as on the wire: ``jit`` or ``explain``) comes on standard input until its end; replies
go to standard output, each with its length in four bytes before it: ``Progress`` as it happens, then one ``Result``,
``Explained`` or ``Failure``. It ends, and its compile with it, when the process that asked closes the pipe or dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import select
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from mlc_jit import messages as m
from mlc_jit.errors import JitError, ProtocolError
from mlc_jit.locations import made_home
from mlc_jitd import broker as b
from mlc_jitd.answers import result
from mlc_jitd.app import make_work
from mlc_jitd.asks import Asks
from mlc_jitd.build import StopSignal
from mlc_jitd.compiling import TOOLCHAIN_CHANGED, Order
from mlc_jitd.config import Settings
from mlc_jitd.fellows import Away
from mlc_jitd.housekeeper import make_room
from mlc_jitd.lending import Lending, leases_here
from mlc_jitd.membership import Membership
from mlc_jitd.observe import Alone
from mlc_jitd.reports import error_of, explained, fetching, stopgap_result
from mlc_jitd.schedule import capacity
from mlc_jitd.store import Collector, Entry, Found, Missing, Uses
from mlc_jitd.work import Built

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.compiling import Report
    from mlc_jitd.elsewhere import Arriving, Fetched
    from mlc_jitd.identity import Identity
    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)

NAMING_SECONDS = 2.0
"""How long who has its library already is kept for upstream's name, which is asked for while the compile runs."""


def main(source: BinaryIO = sys.stdin.buffer, sink: BinaryIO = sys.stdout.buffer) -> int:
    """Answer one request; 0 when a library was handed out, 1 when not.

    What there is to tidy up in the cache is done after the answer, for which nobody waits.
    """
    asker = os.getppid()
    lock = threading.Lock()

    def reply(message: m.Message) -> None:
        payload = m.encode(message)
        # Who asked may be gone; then this process is about to end its compile, and itself.
        with lock, contextlib.suppress(BrokenPipeError):
            sink.write(struct.pack(">I", len(payload)) + payload)
            sink.flush()

    stop = StopSignal()
    fleet: Membership | None = None
    try:
        request = _request(source)
        _stop_with_asker(source, stop)
        settings = Settings.load(strict=False)
        leases = leases_here()
        work = make_work(made_home(), settings, leases=leases)
        lending = Lending(leases, Uses(work.store.layout.used))
        collector, asks = Collector(work.store, leases, lending.uses), Asks(work.store.layout.library)
        work.compiler.make_room = lambda need: make_room(collector, asks, settings, need)
        if isinstance(request, m.Explain):
            reply(explained(request.id, work.explain(request.request), work.upstream.files, work.store.layer_of))
            return 0
        fleet = Membership(settings, work)
        naming = _Naming(work, request) if settings.upstream_names else None
        listens = functools.partial(_listens, source)
        one = _Once(work, lending, settings, asker, listens, reply, stop, naming)
        answer = one.answer(request)
    except JitError as error:
        reply(m.Failure.of(error, id=0))
        if fleet is not None:
            fleet.close()
        return 1
    reply(answer)
    if naming is not None:
        naming.place()
    fleet.share(one.made, again=request.policy == "REDO")
    fleet.close()
    if answer.source == "compiled" and settings.collect_seconds:
        make_room(collector, asks, settings, 0)  # without a daemon, nobody else would
    return 0


def _request(source: BinaryIO) -> m.JitRequest | m.Explain:
    header = source.read(4)
    if len(header) != 4:  # noqa: PLR2004 - a length
        raise ProtocolError("no request on standard input", remedy="`mlc-jitd once` is for the client library.")
    size = struct.unpack(">I", header)[0]
    if size > m.MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a request of {size} bytes is too long")
    message = m.decode(source.read(size), m.REQUESTS, strict=True)
    if not isinstance(message, m.JitRequest | m.Explain):
        raise ProtocolError(f"`mlc-jitd once` answers `jit` and `explain`, not `{message.verb}`")
    return message


def _stop_with_asker(source: BinaryIO, stop: StopSignal) -> None:
    def watch() -> None:
        while os.read(source.fileno(), 1):  # not through the buffer: its lock, held at exit, would abort the process
            pass
        stop.stop("cancelled")

    threading.Thread(target=watch, name="asker", daemon=True).start()


def _listens(source: BinaryIO) -> bool:
    """Whether who asked still holds the other end of the pipe; else its pid is another's by now, its parent's even."""
    poll = select.poll()
    poll.register(source, 0)
    return not any(events & select.POLLHUP for _, events in poll.poll(0))


class _Naming:
    """Puts what is compiled here under upstream's names, too.

    The toolchain is asked for the names while the compile runs.
    """

    def __init__(self, work: Work, request: m.JitRequest) -> None:
        self._work = work
        self._request = request
        self._asking: threading.Thread | None = None
        self._made: tuple[Identity, Entry] | None = None

    def begin(self, identity: Identity) -> None:
        """A compile begins."""

        def ask() -> None:
            with contextlib.suppress(JitError):
                self._work.upstream.names(self._request, identity)  # which are remembered

        self._asking = threading.Thread(target=ask, name="upstream", daemon=True)
        self._asking.start()

    def made(self, identity: Identity, entry: Entry) -> None:
        """It has ended."""
        self._made = (identity, entry)

    def place(self) -> None:
        """Put it there, if the names are known by now."""
        if self._made is None or self._asking is None:
            return
        self._asking.join(NAMING_SECONDS)
        if self._asking.is_alive():
            return
        with contextlib.suppress(JitError, OSError):
            self._work.upstream.place(self._request, *self._made)


@dataclasses.dataclass(frozen=True, slots=True)
class _Once:
    """What one request needs."""

    work: Work
    lending: Lending
    settings: Settings
    asker: int
    listens: Callable[[], bool]
    reply: Callable[[m.Message], None]
    stop: StopSignal
    naming: _Naming | None
    made: list[Entry] = dataclasses.field(default_factory=list)
    """What was compiled."""

    def answer(self, request: m.JitRequest) -> m.Result:
        """What the daemon would do, with a broker for one asker: the policy stands in one place.

        Raises:
            JitError: No library.
        """
        for again in (True, True, False):
            try:
                answer, entry = self._try(request)
            except JitError as error:
                if error.reason != TOOLCHAIN_CHANGED or not again:
                    raise
                continue
            if entry is None:  # upstream's own file
                break
            if self.listens():
                self.lending.lend(b"", self.asker, entry)
            made = answer.source != "hit" and os.path.lexists(entry.path)
            if made or self.work.store.still(entry) or not again:
                break
            # It was collected since it was found.
        self.lending.uses.flush()
        return answer

    def _build(self, order: Order, report: Report, seen: Alone) -> Built:
        try:
            while isinstance(built := self.work.build(order, report, self.stop), Away):
                came = built.wait(report, self.stop)
                if came is not None:
                    built = Built(came.entry, compiled=came.compiled)
                    break
        except JitError as error:
            seen.ended(error)
            raise
        seen.ended(built)
        return built

    def _fetched(self, request: m.JitRequest, identity: Identity) -> Fetched:
        """Ask elsewhere for what is not here."""
        began = time.monotonic()

        def told(arriving: Arriving) -> None:
            if request.progress:
                elapsed = time.monotonic() - began
                self.reply(fetching(arriving, id_=request.id, key=identity.key, elapsed=elapsed))

        assert self.work.elsewhere is not None
        return self.work.elsewhere.fetch(identity, told=told)

    def _try(self, request: m.JitRequest) -> tuple[m.Result, Entry | None]:
        found = self.work.look_up(request)
        if self.work.elsewhere is not None and isinstance(found.answer, Missing) and request.policy != "REDO":
            found = found.after(self._fetched(request, found.identity))
        key = found.identity.key
        hit = isinstance(found.answer, Found)
        reason = "" if isinstance(found.answer, Found) else found.answer.reason
        began = time.monotonic()
        if found.stopgap is not None:
            return stopgap_result(request.id, found.identity, found.stopgap), None
        first = b.Broker().asked(
            (b"", 0), key=key, policy=request.policy, hit=hit, reason=reason, now=began, why=found.why
        )[0]
        if isinstance(first, b.Refuse):
            raise error_of(first.trouble, key)
        if isinstance(found.answer, Found) and isinstance(first, b.Deliver):
            return result(request.id, found.identity, found.answer.entry), found.answer.entry

        def report(stage: Stage) -> None:
            seen.entered(stage)
            if self.naming is not None and stage.name == "start":
                self.naming.begin(found.identity)
            if request.progress:
                elapsed = time.monotonic() - began
                self.reply(m.Progress(id=request.id, stage=stage.name, detail=stage.detail, elapsed=elapsed, key=key))

        order = Order.alone(found.identity, request, capacity.read(), cores_per_job=self.settings.cores_per_job)
        library = self.work.store.layout.library
        seen = Alone(library, request, found, reason or "redo", asker=self.asker, cores=order.cores)
        built = self._build(order, report, seen)
        if built.compiled:
            self.made.append(built.entry)
        if self.naming is not None and built.compiled:
            self.naming.made(found.identity, built.entry)
        plain = result(request.id, found.identity, built.entry)
        source: m.Source = "compiled" if built.compiled else "joined"
        return dataclasses.replace(plain, source=source, reason=reason or "redo", detail=found.why), built.entry
