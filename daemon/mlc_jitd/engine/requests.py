"""From a question to its reply: it is looked up, the broker is asked, and who asked is told, served or refused."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError, RequestError
from mlc_jitd import broker as b
from mlc_jitd.answers import Answers, Frames, result
from mlc_jitd.engine.ledger import Asking
from mlc_jitd.logs import facts
from mlc_jitd.reports import error_of, fetching, internal, stopgap_result
from mlc_jitd.store import Entry, Found

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from mlc_jitd.elsewhere import Arriving
    from mlc_jitd.engine.inbox import Inbox
    from mlc_jitd.engine.ledger import Ledger
    from mlc_jitd.engine.onlookers import Onlookers
    from mlc_jitd.engine.outbox import Outbox
    from mlc_jitd.identity import Identity
    from mlc_jitd.peers import Peer
    from mlc_jitd.upstream import Stopgap
    from mlc_jitd.work import LookUp, Work

    SecondLook = Callable[[LookUp, Callable[[LookUp], None], Callable[[Arriving], None]], None]

logger = logging.getLogger(__name__)

LOOKUP_THREADS = 16
"""They wait for interpreters and compilers to answer, and for the disk, more than they work."""


class Requests:
    """Requests on their way. In the engine's thread, but for what says otherwise.

    Args:
        work: Looks up.
        ledger: What is on its way.
        inbox: Brings what look-ups found back into the engine's thread.
        outbox: Takes the replies.
        onlookers: Told of look-ups, of who waits and of what is answered, and of connections that are gone.
        lend: Told who gets an entry, by connection and pid, before the last look at it.
        do: Carries out the broker's instructions.
        counters: What happened how often.
    """

    def __init__(
        self,
        work: Work,
        ledger: Ledger,
        inbox: Inbox,
        outbox: Outbox,
        *,
        onlookers: Onlookers,
        lend: Callable[[bytes, int, Entry], None],
        do: Callable[[list[b.Instruction]], None],
        counters: Counter[str],
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._broker = ledger.broker
        self._asking = ledger.asking
        self._inbox = inbox
        self._outbox = outbox
        self._onlookers = onlookers
        self._lend = lend
        self._do = do
        self._counters = counters
        self.answers = Answers(work.store.unchanged, work.identifier.recheck, lend)
        self._frames = Frames(self.answers)
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        self._over = False
        self.second_look: SecondLook = lambda found, done, _told: done(found)
        """Asks elsewhere for what is not here; called in a thread of a look-up, which it must not keep."""
        self.remembered_hits = 0
        """Counted in the server's thread, all else in the engine's."""

    def over(self) -> None:
        """Look up nothing more: who asks from now on is sent to the next daemon."""
        self._over = True

    def close(self) -> None:
        """Begin none of the look-ups that wait for a thread."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    # --- in the server's thread -------------------------------------------------------------------------------------

    def recall(self, peer: Peer, request: m.JitRequest) -> m.Result | None:
        """The remembered answer to a request; without one, it is taken in."""
        answer = self.answers.recall(peer.identity, peer.pid, request)
        if answer is None:
            self._inbox.post(self.asked, peer, request)
            return None
        self.remembered_hits += 1
        self._known_by_now(peer, request.id)
        return answer

    def turn(self) -> None:
        """What ``reply`` gets until the next turn has been asked already."""
        self._frames.turn()

    def rest(self) -> None:
        """Nobody asks just now."""
        self.answers.rest()

    def reply(self, peer: Peer, frame: bytes) -> bytes | None:
        """The bytes of the reply to a request whose bytes are known."""
        found = self._frames.reply(peer.identity, peer.uid, peer.pid, frame)
        if found is not None:
            self.remembered_hits += 1
            if self._asking:
                self._known_by_now(peer, m.id_of(found))
        return found

    def learn(self, peer: Peer, frame: bytes, request: m.JitRequest) -> None:
        """A request was answered at once: its bytes may be known from now on."""
        self._frames.learn(peer.uid, frame, request)

    def _known_by_now(self, peer: Peer, id_: int) -> None:
        if (peer.identity, id_) in self._asking:  # sent again, and meanwhile the answer is known
            self._inbox.post(self.left, (peer.identity, id_), False)

    # --- in the engine's thread -------------------------------------------------------------------------------------

    def asked(self, peer: Peer, request: m.JitRequest) -> None:
        """Take a request in."""
        asker = (peer.identity, request.id)
        if asker in self._asking:
            return  # sent again by a client that was not sure: it is waiting already
        self._counters["requests"] += 1
        self._asking[asker] = asking = Asking(peer, request, time.time())
        if self._over:
            self.fail(asker, error_of(b.draining(), ""))
            return
        self._look_up(asker, asking)

    def look_up_again(self, asker: b.Asker) -> bool:
        """Look a request up anew, once, because its compiler was replaced; whether that was begun."""
        asking = self._asking.get(asker)
        if asking is None or asking.again:
            return False
        asking.again = True
        self._look_up(asker, asking)
        return True

    def _look_up(self, asker: b.Asker, asking: Asking) -> None:
        def task() -> None:
            try:
                found = self._work.look_up(asking.request)
            except JitError as error:
                self._inbox.post(self.fail, asker, error)
            except Exception as error:
                logger.exception("a look-up failed")
                self._inbox.post(self.fail, asker, internal(error))
            else:
                if asking.request.policy == "REDO" or isinstance(found.answer, Found):
                    self._inbox.post(self._looked_up, asker, found)
                else:
                    self.second_look(
                        found,
                        lambda better: self._inbox.post(self._looked_up, asker, better),
                        lambda arriving: self._inbox.post(self._arrives, asker, found.identity.key, arriving),
                    )

        if asking.request.policy == "OFF":
            self._do([b.Refuse(asker, b.disabled())])
        else:
            try:
                self._lookups.submit(task)
            except RuntimeError as error:  # no thread to be had
                self.fail(asker, internal(error))

    def _arrives(self, asker: b.Asker, key: str, arriving: Arriving) -> None:
        """Say how far a library is that comes from elsewhere."""
        asking = self._asking.get(asker)
        if asking is not None and asking.request.progress:
            elapsed = time.time() - asking.asked_at
            self._outbox.send(asker[0], fetching(arriving, id_=asker[1], key=key, elapsed=elapsed))

    def _looked_up(self, asker: b.Asker, found: LookUp) -> None:
        asking = self._asking.get(asker)
        if asking is None:
            return
        key, request = found.identity.key, asking.request
        hit = isinstance(found.answer, Found)
        reason = "" if isinstance(found.answer, Found) else found.answer.reason
        if isinstance(found.answer, Found):
            self._ledger.entries[key] = found.answer.entry
        else:
            self._counters[f"misses_{reason}"] += 1
        if found.why:
            about = facts(event="miss", key=key, reason=reason or "redo", model=request.model_path, why=found.why)
            logger.info(
                "miss (%s) %s for %s: %s", reason or "redo", key[:12], request.model_path, found.why, extra=about
            )
        asking.identity, asking.why = found.identity, found.why
        self._onlookers.tell(lambda each: each.looked_up(asking.peer, request, found))
        if found.stopgap is not None:
            self._hand_out(asker, found.identity, found.stopgap)
            return
        instructions = self._broker.asked(
            asker,
            key=key,
            policy=request.policy,
            hit=hit,
            reason=reason,
            now=time.monotonic(),
            interactive=not request.prewarm,
            why=found.why,
        )
        self._do(instructions)
        job = self._broker.jobs.get(key)
        if job is not None and asker in job.waiters:
            self._onlookers.tell(lambda each: each.joined(key, asker, asking))
        self._ledger.settle(key)

    def _hand_out(self, asker: b.Asker, identity: Identity, stopgap: Stopgap) -> None:
        """Upstream's own file, where compiling is forbidden."""
        asking = self._asking.pop(asker)
        self._counters["stopgaps"] += 1
        logger.warning("%s: %s", identity.key[:12], stopgap.warning)
        reply = stopgap_result(asker[1], identity, stopgap)
        self._outbox.send(asker[0], reply)
        self._onlookers.tell(lambda each: each.answered(asking, reply, "stopgap"))

    def left(self, asker: b.Asker, cancel: bool) -> None:
        """Who asked does not wait any more."""
        self._asking.pop(asker, None)
        self._onlookers.tell(lambda each: each.left(asker))
        self._do(self._broker.left(asker, cancel=cancel))

    def gone(self, identity: bytes) -> None:
        """A connection that waited is no more."""
        for asker in [asker for asker in self._asking if asker[0] == identity]:
            self.left(asker, cancel=False)
        self._onlookers.tell(lambda each: each.gone(identity))

    def cancel(self, peer: Peer, message: m.Cancel) -> None:
        """End a job by name."""
        keys = self._broker.match(message.key)
        if len(keys) != 1:
            what = "no running or queued compile has" if not keys else f"{len(keys)} compiles have"
            error = RequestError(
                f"{what} a key that begins with {message.key[:64]!r}.", remedy="`mlc-jit status` lists them."
            )
            self._outbox.send(peer.identity, m.Failure.of(error, id=message.id))
            return
        self._do(self._broker.cancelled(keys[0]))
        self._outbox.send(peer.identity, m.Cancelled(id=message.id, key=keys[0]))

    def dismiss(self) -> None:
        """Send away whose look-ups have not ended: the daemon ends."""
        for asker in [asker for asker in self._asking if not self._broker.waits(asker)]:
            self.fail(asker, error_of(b.draining(), ""))

    # --- the broker's instructions ----------------------------------------------------------------------------------

    def deliver(self, instruction: b.Deliver) -> None:
        """Hand a library out."""
        asking = self._asking.get(instruction.asker)
        if asking is None or asking.identity is None:
            return
        identity = asking.identity
        entry = self._ledger.entries[instruction.key]
        if not self._outbox.is_own(asking.peer.identity):
            self._lend(asking.peer.identity, asking.peer.pid, entry)
            # A library that was just made is protected by its age, even if another process has replaced it already.
            made = instruction.source != "hit" and os.path.lexists(entry.path)
            if not made and not self._work.store.still(entry):  # it was collected since it was found
                self._look_up(instruction.asker, asking)
                return
        del self._asking[instruction.asker]
        if instruction.source == "hit":
            self._counters["hits"] += 1
        if instruction.source == "joined":
            self._counters["joins"] += 1
        self.answers.remember(asking.request, identity, entry)
        plain = result(asking.request.id, identity, entry)
        reply = dataclasses.replace(plain, source=instruction.source, reason=instruction.reason)
        if instruction.source != "hit":
            reply = dataclasses.replace(reply, detail=asking.why)
        self._outbox.send(instruction.asker[0], reply)
        self._onlookers.tell(lambda each: each.answered(asking, reply, instruction.source))

    def fail(self, asker: b.Asker, error: JitError) -> None:
        """Answer with an error."""
        asking = self._asking.pop(asker, None)
        if asking is not None:
            self._counters["refusals"] += 1
            reply = m.Failure.of(error, id=asker[1])
            self._outbox.send(asker[0], reply)
            self._onlookers.tell(lambda each: each.answered(asking, reply, "refused"))

    def tell(self, instruction: b.Tell) -> None:
        """Say how far a job is, to who wants to hear it."""
        state = self._ledger.jobs.get(instruction.key)
        step = instruction.step
        elapsed = step.at
        if elapsed is None:
            elapsed = time.monotonic() - state.submitted if state is not None else 0.0
        for identity, id_ in instruction.askers:
            asking = self._asking.get((identity, id_))
            if asking is not None and asking.request.progress:
                self._outbox.send(
                    identity,
                    m.Progress(
                        id=id_,
                        stage=step.stage,
                        detail=step.detail,
                        fraction=step.fraction,
                        left=step.left,
                        elapsed=elapsed,
                        key=instruction.key,
                    ),
                )
