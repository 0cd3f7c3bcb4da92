"""The ROUTER socket: frames in, messages out, peers as the kernel sees them, heartbeats. No meaning, no slow work.

One thread owns the socket. The handler is called in that thread, so it must not wait for anything; what takes time
goes elsewhere and is answered later through ``send``, which any thread may call. Heartbeats come from the same thread:
a client that stops hearing them faces a daemon that would not answer either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import zmq

from mlc_jit import messages as m
from mlc_jit.errors import AccessRefusedError, JitError, ProtocolError
from mlc_jitd.connections import Connections
from mlc_jitd.peers import Guard, Memory, Peer, Peers
from mlc_jitd.waiters import AWAITED, Waiters, is_final

logger = logging.getLogger(__name__)

BATCH = 32
"""Messages taken from the socket before replies of other threads and heartbeats get their turn."""

NOW, NOW_AND_MORE, READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
"""As plain numbers: to join two flags of an enumeration takes as long as to send a frame."""

BRISK_MILLISECONDS = 1
"""How long the next question is waited for without a look at anything else. Who has a reply from another thread waits
no longer than this for it."""

TICK_SECONDS = 1.0
"""How often the tick comes while there is something to do."""

GUARDED_BYTES, GUARDED_UNREAD = 256 << 10, 16
"""The longest message, and how many of one connection may wait to be looked at, where strangers may connect."""

REPORTS = 16
"""Connections that came or went, looked at before messages get their turn."""

MAX_UNREAD = 1000
"""Messages that may wait in either direction on one connection; replies beyond that are dropped and counted."""

COUNTED = (
    "broken_frames", "dropped_replies", "handler_errors", "invalid_messages", "lost_waiters", "messages",
    "refused_uid", "unknown_verbs",
)  # fmt: skip


Handler = Callable[[Peer, m.Message], m.Message | None]
_Come = list[tuple[bytes, zmq.Frame, bool]]
"""For each message its connection, its last frame, and whether that was all of it."""


class Server:
    """Serves one listening socket; see the module's docstring.

    Args:
        listener: A bound, listening Unix socket; taken over.
        handler: Gets each good message; returns the reply, or ``None`` where there is none (yet).
        gone: Told the identity of a connection that waited for an answer and went away.
        allow: Uids that may talk to this daemon, where nobody guards it.
        guard: Says who may do what; without it, whoever may talk may do everything.
        tick: Called about once a second while messages come; says in how many seconds it wants to be called at the
            latest.
        memory: Asked before a frame is decoded.
        away: Told the identity of any connection that a message could not be sent to.
        ended: Called when nobody answers any more, whatever the reason.
    """

    def __init__(
        self,
        listener: socket.socket,
        handler: Handler,
        *,
        gone: Callable[[bytes], None],
        allow: frozenset[int] | None = None,
        guard: Guard | None = None,
        tick: Callable[[], float] | None = None,
        away: Callable[[bytes], None] = lambda _identity: None,
        memory: Memory | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._memory = memory
        self._handler = handler
        self._gone = gone
        self._away = away
        self._ended = ended
        self._tick = tick
        self._guard = guard
        self._peers = Peers(frozenset({os.getuid()}) if allow is None else allow, guard)
        # Every name from the start: another thread may add this up while this one counts.
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._waiters = Waiters()
        self._outbox: deque[tuple[bytes, m.Message]] = deque()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._awake = False
        self._crowd = True
        """Whether several ask at the same time."""
        self._running = True
        self._stop = threading.Event()
        self._context = zmq.Context(io_threads=1)
        self._router = self._context.socket(zmq.ROUTER)
        self._send = super(zmq.Socket, self._router).send  # without what other socket types need
        self._router.setsockopt(zmq.LINGER, 1000)
        self._router.setsockopt(zmq.RCVTIMEO, BRISK_MILLISECONDS)
        self._router.setsockopt(zmq.MAXMSGSIZE, m.MAX_MESSAGE_BYTES if guard is None else GUARDED_BYTES)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.RCVHWM, MAX_UNREAD if guard is None else GUARDED_UNREAD)
        self._router.setsockopt(zmq.SNDHWM, MAX_UNREAD)
        if guard is None:
            self._connections = Connections(self._router)
        else:
            guard.forget = self._peers.forget
            self._connections = Connections(self._router, came=guard.came, went=guard.went)
        path = listener.getsockname()
        self._router.setsockopt(zmq.USE_FD, listener.detach())
        self._router.bind(f"ipc://{path}")
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def send(self, identity: bytes, message: m.Message) -> None:
        """Queue a reply; from any thread. A connection that is gone is no error, nor is a server that is closed."""
        self._outbox.append((identity, message))
        if not self._awake:
            self._awake = True
            self._wake()

    def waiting(self) -> int:
        """How many requests are unanswered."""
        return self._waiters.count()

    def alive(self) -> bool:
        """Whether the server answers, or will once it is started."""
        return self._running

    def connected(self) -> int:
        """How many clients have a connection; in the server's thread, so in its ``tick``."""
        return self._connections.count()

    def close(self) -> None:
        """Send what is queued, then close the socket. May be called twice."""
        self._stop.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        if not self._router.closed:
            self._connections.close()
        self._router.close()
        self._context.term()
        self._waiters.close()
        self._wake_r.close()
        self._wake_w.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full, so it will wake; or closed
            self._wake_w.send(b"\0")

    # --- the server's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._running = False
            self._ended()

    def _serve(self) -> None:
        poller = self._poller()
        next_beat = next_tick = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + m.HEARTBEAT_SECONDS
                self._beat()
            if now >= next_tick and self._tick is not None:
                next_tick = now + TICK_SECONDS
                try:
                    next_tick = now + self._tick()
                except Exception:
                    self.counters["handler_errors"] += 1
                    logger.exception("the tick failed")
            due = min(next_beat if self._waiters else now + 60.0, next_tick if self._tick else now + 60.0)
            due = min(due, now + self._guarded())
            come = self._in_time(poller, due)
            self._flush()
            if come:
                next_tick = min(next_tick, now + TICK_SECONDS)
                self._briskly(come, min(due, next_tick))
            for identity in self._waiters.deaths.ended():  # after its last words
                self._lost(identity)
            if self._stop.is_set():
                self._flush()
                return

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_r, zmq.POLLIN)
        if self._waiters.deaths.fileno() >= 0:
            poller.register(self._waiters.deaths, zmq.POLLIN)
        poller.register(self._connections.reports, zmq.POLLIN)
        return poller

    def _guarded(self) -> float:
        """Let the guard look around; seconds until it wants to again."""
        if self._guard is None:
            return 60.0
        return self._guard.look()

    def _in_time(self, poller: zmq.Poller, due: float) -> _Come:
        """What has come, or nothing once something else is to be done."""
        ready = dict(poller.poll(int(max(0.0, due - time.monotonic()) * 1000) + 1))
        if self._wake_r.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_r.recv(4096)
        if self._connections.reports in ready:
            self._connections.take(REPORTS)
        return self._come(NOW) if self._router in ready else []

    def _briskly(self, come: _Come, due: float) -> None:
        """Answer what has come, and what is asked next for as long as it comes at once: to poll takes as long as a hit.

        What else there is to do is done when it is due, or when nobody asks for a moment.
        """
        while come:
            self._answer(come)
            if self._outbox:
                self._flush()
            if self._guard is not None or self._waiters.deaths or time.monotonic() >= due or self._stop.is_set():
                return  # who guards, or waits for an end, wants to hear of it
            come = self._come(0)

    def _answer(self, come: _Come) -> None:
        for identity, payload, whole in come:
            try:
                self._one(identity, payload, whole=whole)
            except Exception:
                self.counters["handler_errors"] += 1
                logger.exception("a message could not be handled")
        self._crowd = len(come) > 1 or self._readable()
        if self._memory is not None and not self._crowd:
            try:
                self._memory.rest()
            except Exception:  # whoever asks next hears what is wrong
                self.counters["handler_errors"] += 1
                logger.exception("what is remembered could not be looked at")

    def _come(self, flags: int) -> _Come:
        """Read what has come before it is answered: one look at the cache serves all who had asked before it.

        As long as one asks after the other, whether there is more is asked behind the answer.
        """
        router, come = self._router, []
        try:
            while True:
                identity = router.recv(flags)
                flags = NOW
                payload = router.recv(copy=False)
                whole = True
                while payload.more:
                    whole = False
                    payload = router.recv(copy=False)
                come.append((identity, payload, whole))
                if not self._crowd or len(come) == BATCH or not self._readable():
                    break
        except zmq.Again:
            pass
        if self._memory is not None:
            self._memory.turn()
        return come

    def _readable(self) -> bool:
        return bool(int(self._router.getsockopt(zmq.EVENTS)) & READABLE)

    def _one(self, identity: bytes, payload: zmq.Frame, *, whole: bool) -> None:
        peer = self._peers.of(identity, payload)
        if not peer.roles:
            self._refuse(peer)
            return
        if not whole:  # a message is one frame
            self._broken(peer, "broken_frames")
            return
        frame = payload.bytes
        known = None if self._memory is None else self._memory.reply(peer, frame)
        if known is not None:
            self._write(identity, known)
            self.counters["messages"] += 1
            if self._waiters:
                self._answered(identity, m.id_of(known))
            return
        message = self._decoded(peer, frame)
        if message is None:
            return
        self._handle(peer, message)
        if self._memory is None or type(message) is not m.JitRequest:
            return
        if not self._waiters.awaits(identity, message.id):
            self._memory.learn(peer, frame, message)

    def _decoded(self, peer: Peer, frame: bytes) -> m.Message | None:
        """What a frame says, as it is to be taken; what can't be taken is answered here."""
        try:
            message = m.decode(frame, m.REQUESTS, strict=True)
        except m.UnknownVerbError as error:
            self._broken(peer, "unknown_verbs")
            self._put(peer.identity, m.Unsupported(id=error.id, asked=error.verb, features=m.FEATURES))
            return None
        except m.InvalidMessageError as error:
            self._broken(peer, "invalid_messages")
            self._put(peer.identity, m.Failure.of(error, id=error.id))
            return None
        except ProtocolError:
            self._broken(peer, "broken_frames")
            return None
        self.counters["messages"] += 1
        screened = message if self._guard is None else self._guard.screen(peer, message)
        if isinstance(screened, m.Failure):
            self._put(peer.identity, screened)
            return None
        return screened

    def _broken(self, peer: Peer, what: str) -> None:
        self.counters[what] += 1
        if self._guard is not None:
            self._guard.offended(peer)

    def _handle(self, peer: Peer, message: m.Message) -> None:
        identity = peer.identity
        if type(message) is m.Leave:
            self._answered(identity, message.id)
        elif type(message) in AWAITED:
            self._waiters.add(identity, message.id)
        try:
            reply = self._handler(peer, message)
        except Exception as error:
            self.counters["handler_errors"] += 1
            logger.exception("%s could not be handled", message.verb)
            reply = _internal(error, message.id)  # else it would wait, and be told to go on waiting, for ever
        if reply is not None:
            self._put(identity, reply)
        elif identity in self._waiters and not self._waiters.deaths.watch(identity, peer.pid):
            self._lost(identity)  # after the handler, who may have to forget what it was just told

    def _refuse(self, peer: Peer) -> None:
        if self._guard is not None and self._guard.closed(peer.identity):
            return
        self._broken(peer, "refused_uid")
        remedy = "Run a daemon of your own (the default), or ask its owner for a system daemon."
        if self._guard is not None:
            remedy = "Have this user, or a group of it, listed under `users` in that daemon's settings."
        error = AccessRefusedError(f"uid {peer.uid} may not use the daemon of uid {os.getuid()}.", remedy=remedy)
        self._put(peer.identity, m.Failure.of(error, id=0))

    def _flush(self) -> None:
        self._awake = False
        while self._outbox:
            self._put(*self._outbox.popleft())

    def _put(self, identity: bytes, message: m.Message) -> None:
        if is_final(message):
            self._answered(identity, message.id)
        try:
            payload = m.encode(message)
        except Exception as error:
            self.counters["handler_errors"] += 1
            logger.exception("a reply could not be encoded: %s", message.verb)
            self._answered(identity, message.id)
            payload = m.encode(_internal(error, message.id))
        self._write(identity, payload)

    def _write(self, identity: bytes, payload: bytes) -> None:
        try:
            self._send(identity, NOW_AND_MORE)
            self._send(payload, NOW)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._lost(identity)
                self._away(identity)
            elif error.errno == zmq.EAGAIN:
                self.counters["dropped_replies"] += 1
            else:
                self.counters["handler_errors"] += 1
                logger.exception("a reply could not be sent")

    def _answered(self, identity: bytes, id_: int) -> None:
        if self._waiters.answered(identity, id_) and self._guard is not None:
            self._guard.answered(identity, id_)

    def _lost(self, identity: bytes) -> None:
        waited = self._waiters.lost(identity)
        if self._guard is not None:
            self._guard.gone(identity)
        if waited:
            self.counters["lost_waiters"] += 1
            self._gone(identity)

    def _beat(self) -> None:
        for identity in self._waiters:
            self._put(identity, m.Heartbeat())


def _internal(error: Exception, id_: int) -> m.Failure:
    # What could not be encoded may stand in the error's text.
    text = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    trouble = JitError(
        f"The daemon failed: {text}",
        remedy="Its log has the details (`mlc-jit status` names it); please report this.",
        reason="internal",
    )
    return m.Failure.of(trouble, id=id_)
