"""Asking from an event loop: one connection for each loop, shared by all its calls; no thread waits for a daemon.

ZeroMQ's descriptor becomes readable only when something *changes*, and every call on the socket may swallow that news.
So all there is is taken each time, and once more after each word that is said. Threads are used only for what blocks:
starting a daemon, and doing without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from mlc_jit import channel as wire
from mlc_jit import conversation
from mlc_jit import messages as m
from mlc_jit.asking import without_daemon
from mlc_jit.errors import DaemonUnavailableError, DrainingError, JitError
from mlc_jit.interrupt import Interrupt
from mlc_jit.locations import locate
from mlc_jit.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jit.locations import Locations
    from mlc_jit.request import Question

_T = TypeVar("_T")


async def ask(
    question: Question, *, on_progress: conversation.OnProgress | None = None, deadline: float | None = None
) -> m.Result:
    """``asking.ask`` for a running event loop. Cancelling it ends the wait and tells the daemon.

    Args:
        question: What to ask; made with ``progress`` if that is wanted.
        on_progress: Told how far it is, in the loop.
        deadline: Monotonic seconds at which the caller gives up.

    Raises:
        WaitTimedOutError: ``deadline`` has come.
        JitError: No library.
    """
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        async with asyncio.timeout(left) as limit:
            outcome = await _ask(question, on_progress)
            if isinstance(outcome, JitError) and conversation.does_without(outcome):
                return await _without_daemon(question, outcome, on_progress)
    except TimeoutError as error:
        if isinstance(error, JitError) or not limit.expired():
            raise
        raise conversation.out_of_time() from None
    if isinstance(outcome, JitError):
        raise outcome
    return outcome


async def _ask(question: Question, tell: conversation.OnProgress | None) -> m.Result | JitError:
    """By the loop's connection, and its successors', until there is an outcome; that may be daemon trouble."""
    hub = _hub()
    tries = 0
    trouble: JitError = DaemonUnavailableError("No daemon was asked.")
    wait = conversation.Wait(question, tell)
    handover = conversation.Handover()
    while tries < conversation.TRIES:
        tries += 1
        begun = time.monotonic()
        channel: wire.Channel | None = None
        try:
            channel = await hub.connected(locate())
            await hub.hear(wait, channel)
        except DrainingError as error:
            trouble = error
            if handover.pending(locate().socket, time.monotonic()):
                hub.release(channel)
                tries -= 1
                wait.held_up(error)
                await asyncio.sleep(handover.pause)
            else:
                hub.drop(channel)
                await asyncio.sleep(conversation.FIRST_PAUSE_SECONDS * 2 ** (tries - 1))
        except JitError as error:
            hub.drop(channel)
            trouble = error
            if error.reason != "gone":
                break
        else:
            if wait.outcome is not None:
                return wait.outcome
            await asyncio.sleep(wait.pause)  # the queue was full
            tries -= 1
        if time.monotonic() - begun > conversation.CALM_SECONDS:
            tries, handover = 0, conversation.Handover()
    return trouble


async def _without_daemon(question: Question, trouble: JitError, tell: conversation.OnProgress | None) -> m.Result:
    loop = asyncio.get_running_loop()
    interrupt = Interrupt()

    def told(progress: m.Progress) -> None:
        if tell is not None:
            loop.call_soon_threadsafe(tell, progress)

    try:
        return await in_thread(
            lambda: without_daemon(question.request, trouble, told, interrupt, None), interrupt.close
        )
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):  # it has ended just now
            interrupt.set()
        raise


async def in_thread(call: Callable[[], _T], after: Callable[[], None] = lambda: None) -> _T:
    """Run something that blocks in a thread that nobody has to wait for at the end, unlike an executor's.

    Args:
        call: Goes on when the task that awaits it is cancelled.
        after: Called in that thread when it is over.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def run() -> None:
        try:
            settle = functools.partial(_succeed, done, call())
        except BaseException as error:  # noqa: BLE001 - it is the task's
            settle = functools.partial(_fail, done, error)
        after()
        with contextlib.suppress(RuntimeError):  # the loop was closed over it
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name="mlc-jit", daemon=True).start()
    return await done


def _succeed(done: asyncio.Future[_T], value: _T) -> None:
    if not done.done():
        done.set_result(value)


def _fail(done: asyncio.Future[_T], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error if isinstance(error, Exception) else JitError("The wait was interrupted."))


class Hub:
    """One event loop's connection, and who waits for what over it. All in the loop's thread.

    It hangs on the loop only while somebody waits, so that neither keeps the other alive.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._channel: wire.Channel | None = None
        self._waits: dict[int, tuple[conversation.Wait, asyncio.Future[None]]] = {}
        self._places: Locations | None = None
        self._vigil: Vigil | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader = -1
        self._connecting: asyncio.Future[None] | None = None

    async def connected(self, places: Locations) -> wire.Channel:
        """A connection, and a daemon started if need be; one caller sees to that, and the others wait for it."""
        while True:
            channel = self._channel
            if channel is not None and channel.path == places.socket and channel.fresh():
                return channel
            if self._connecting is not None:
                await asyncio.shield(self._connecting)
                continue
            connecting = self._connecting = asyncio.get_running_loop().create_future()
            try:
                await in_thread(functools.partial(_ensure, places))
                self.drop(self._channel)
                self._channel, self._places = wire.Channel(places.socket), places
                connecting.set_result(None)
            except JitError as error:
                connecting.set_exception(error)
                connecting.exception()  # nobody may wait for it
                raise
            finally:
                self._connecting = None
                if not connecting.done():
                    connecting.set_result(None)  # cancelled: somebody else sees to it

    async def hear(self, wait: conversation.Wait, channel: wire.Channel) -> None:
        """Ask, and wait until there is an outcome or ``again_at``.

        Raises:
            JitError: Daemon trouble; ``DrainingError`` to ask the daemon's successor.
        """
        done = asyncio.get_running_loop().create_future()
        wait.again_at = None
        self._waits[wait.id] = wait, done
        self._watch(channel, wait.question.silence)
        channel.post(wait.question.frame(wait.id))
        self._take()
        try:
            await done
        except asyncio.CancelledError:
            if self._channel is channel and self._waits.get(wait.id, (None,))[0] is wait:
                channel.send(m.Leave(id=wait.id))
            raise
        finally:
            self._waits.pop(wait.id, None)
            self._rest()

    def drop(self, channel: wire.Channel | None) -> None:
        """Give a connection up, if it still is the one; whoever still waits over it asks again over the next one."""
        if channel is None or channel is not self._channel:
            return
        gone = DaemonUnavailableError("The connection was given up.", reason="gone")
        self._end_all(gone)
        self._unwatch()
        channel.close()
        self._channel = None

    def release(self, channel: wire.Channel | None) -> None:
        """Give a connection up, unless somebody else waits over it."""
        if not self._waits:
            self.drop(channel)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _watch(self, channel: wire.Channel, silence: float) -> None:
        if self._vigil is not None:
            return
        loop = asyncio.get_running_loop()
        self._vigil = Vigil(channel.path, silence, time.monotonic())
        self._reader = channel.fileno()
        loop.add_reader(self._reader, self._take)
        self._timer = loop.call_later(self._vigil.due - self._vigil.heard, self._on_time)

    def _rest(self) -> None:
        if not self._waits:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._vigil is None:
            return
        self._vigil = None
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            asyncio.get_running_loop().remove_reader(self._reader)

    def _take(self) -> None:
        """Everything that has come; then the descriptor tells of what comes next."""
        while self._channel is not None and (frame := self._channel.ready()) is not None:
            if self._vigil is not None:
                self._vigil.word(time.monotonic())
            try:
                self._dispatch(frame)
            except JitError as error:
                self._end_all(error)
                return

    def _dispatch(self, frame: bytes) -> None:
        message = wire.heard(frame)
        if message is None or message.id not in self._waits:
            return
        wait, done = self._waits[message.id]
        try:
            then = wait.take(message, self._places or locate(), time.monotonic())
        except DaemonUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - on_progress raised: that is its caller's
            self._leave(wait)
            _finish(done, error)
            return
        if then == "elsewhere":
            _finish(done, DrainingError("The mlc-jitd daemon is stopping.", remedy="Ask again."))
        elif then is not None:
            _finish(done, None)

    def _leave(self, wait: conversation.Wait) -> None:
        self._waits.pop(wait.id, None)
        if self._channel is not None:
            self._channel.send(m.Leave(id=wait.id))

    def _on_time(self) -> None:
        """Nothing may have been said for a while."""
        self._take()
        vigil, channel = self._vigil, self._channel
        if vigil is None or channel is None:
            return
        now = time.monotonic()
        if now >= vigil.due:
            try:
                step = vigil.silent(now, wire.reach(channel.path))
            except JitError as error:
                self._end_all(error)
                return
            if step != "wait":
                channel.remind(step, (wait.question.frame(wait.id) for wait, _ in self._waits.values()))
                self._take()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, vigil.due - now), self._on_time)

    def _end_all(self, error: JitError) -> None:
        for _, done in list(self._waits.values()):
            _finish(done, error)
        self._waits.clear()


def _finish(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _ensure(places: Locations) -> None:
    from mlc_jit import autostart  # noqa: PLC0415 - subprocess and filelock: not for a hit

    autostart.ensure(places)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def _hub() -> Hub:
    """The running loop's; a process that was forked from the one that made it gets its own."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None or hub.pid != os.getpid():
        hub = _hubs[loop] = Hub()
    return hub
