"""What is said to a daemon and heard from it: questions over one thread's connection, until each has an outcome.

Here a daemon that ends is replaced and a full queue is waited for. The same for an event loop is ``aio``; what a reply
means is said here for both. What does not belong here: doing without a daemon (``asking``).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlc_jit import channel as wire
from mlc_jit import log, settings
from mlc_jit import messages as m
from mlc_jit.errors import (
    BusyError,
    DaemonError,
    DaemonUnavailableError,
    DrainingError,
    JitError,
    StoreError,
    StoreUnwritableError,
    WaitTimedOutError,
)
from mlc_jit.locations import NO_HOME, Locations
from mlc_jit.messages import codec, core  # noqa: F401 - now: who waits may outlive the files of this version
from mlc_jit.vigil import Vigil

if TYPE_CHECKING:
    from mlc_jit.hit import Begun
    from mlc_jit.interrupt import Interrupt
    from mlc_jit.request import Question

TRIES = 5
"""How often a question is asked again when its daemon ends or is replaced meanwhile."""

CALM_SECONDS = 60.0
"""A daemon that has served for this long is no reason to doubt the next one: the tries begin anew."""

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.05, 2.0
"""Between two questions to a daemon that stops and can't be replaced yet."""

PASSING = frozenset({"queue-full", "client-full", "user-full", "prewarm-full"})
"""Why a queue took no job now, and may take it in a moment."""

UNSEEN = "unseen"
"""Why a library is of no use: it lies where this process has nothing mounted."""

OnProgress = Callable[[m.Progress], None]
OnEnd = Callable[[int, m.Result | JitError], None]
Then = Literal["answered", "elsewhere", "later"]


class Wait:
    """One question and what becomes of it. A plain class: to make a dataclass takes a fiftieth of a process's hit.

    Attributes:
        question: What is asked.
        tell: Told how far it is.
        id: The same over every connection.
        place: Which of the caller's questions it is.
        begun: When it was first asked.
        again_at: When it is asked again, because a queue was full; ``None`` while it is being asked.
        outcome: The library, or why there is none; ``None`` while it is waited for.
    """

    __slots__ = ("again_at", "begun", "id", "outcome", "pause", "place", "question", "tell")

    def __init__(self, question: Question, tell: OnProgress | None = None, place: int = 0) -> None:
        self.question = question
        self.tell = tell
        self.place = place
        self.id = wire.next_id()
        self.begun = time.monotonic()
        self.again_at: float | None = None
        self.pause = 0.5
        self.outcome: m.Result | JitError | None = None

    def take(self, reply: m.Message, places: Locations, now: float) -> Then | None:
        """Take in a reply with this wait's id; ``None`` where it is not the last one.

        Raises:
            DaemonUnavailableError: The daemon does not know the question.
        """
        if type(reply) is m.Result:
            self.outcome = visible(heeded(reply), places)
        elif type(reply) is m.Progress:
            if self.tell is not None:
                self.tell(reply)
            return None
        elif type(reply) is m.Failure:
            return self._refused(reply.error(), now)
        elif type(reply) is m.Unsupported:
            raise DaemonUnavailableError(
                "The daemon does not know `jit`: it is another version's.", reason="unsupported"
            )
        return "answered"

    def held_up(self, error: JitError) -> None:
        """Whoever is to be asked can't take it now; it will be asked again."""
        if self.tell is not None:
            self.tell(m.Progress(stage="busy", detail=error.message, elapsed=time.monotonic() - self.begun))

    def _refused(self, error: JitError, now: float) -> Then:
        if isinstance(error, DrainingError):
            return "elsewhere"
        waited = now - self.begun
        if (
            not isinstance(error, BusyError)
            or error.reason not in PASSING
            or waited + self.pause > settings.current().busy
        ):
            self.outcome = error
        else:
            self.again_at = now + self.pause
            self.pause = min(self.pause * 1.5, 5.0)
            self.held_up(error)
            return "later"
        return "answered"


class Handover:
    """The time between a daemon that stops and the one that comes after it.

    Its path is the next one's at once. Only a service manager's socket leads to the one that stops until that has
    ended: nobody can take its place before, so to ask again is no failed try, and costs that daemon next to nothing.
    """

    __slots__ = ("_begun", "pause")

    def __init__(self) -> None:
        self._begun: float | None = None
        self.pause = FIRST_PAUSE_SECONDS

    def pending(self, path: Path, now: float) -> bool:
        """A daemon said that it stops. Whether it is still the one at its path, and is asked again after ``pause``."""
        self._begun = now if self._begun is None else self._begun
        try:
            up = wire.reach(path) == "up"
        except JitError:
            return False
        self.pause = min(self.pause * 2, LAST_PAUSE_SECONDS)
        return up and now - self._begun < settings.current().busy


class Conversation:
    """What is said and heard over this thread's connection, and over its successors', until every wait has an outcome.

    The outcome may be that no daemon was to be had. Arguments as ``ask`` and ``ask_all`` explain them; ``begun`` where
    the only question was asked already.
    """

    def __init__(
        self,
        places: Locations,
        waits: list[Wait],
        *,
        cancel_alone: bool,
        interrupt: Interrupt | None,
        deadline: float | None,
        on_end: OnEnd | None,
        begun: Begun | None = None,
    ) -> None:
        self._asked_over = None if begun is None else begun.channel
        self._first = None if begun is None else begun.frame
        self._places = places
        self._pending = {wait.id: wait for wait in waits}
        self._cancel_alone = cancel_alone
        self._interrupt = interrupt
        self._deadline = deadline
        self._on_end = on_end

    def run(self) -> None:
        """See the class."""
        tries = 0
        trouble: JitError = DaemonUnavailableError("No daemon was asked.")
        channel: wire.Channel | None = None
        handover = Handover()
        while self._pending and tries < TRIES:
            tries += 1
            begun = time.monotonic()
            try:
                channel = self._connected()
                self._hear(channel)
            except DrainingError as error:
                wire.forget()
                channel = None
                trouble = error
                if handover.pending(self._places.socket, time.monotonic()):
                    tries -= 1
                    self._tell(error)
                    self._pause(handover.pause)
                else:
                    self._pause(FIRST_PAUSE_SECONDS * 2 ** (tries - 1))
            except JitError as error:
                wire.forget()
                channel = None
                trouble = error
                if error.reason != "gone":
                    break
            except BaseException:
                # Ctrl-C, or on_progress raised: nobody hears these questions' answers any more.
                if channel is not None:
                    self._leave(channel)
                raise
            if time.monotonic() - begun > CALM_SECONDS:
                tries, handover = 0, Handover()
        self._end_all(trouble)

    def _tell(self, error: DrainingError) -> None:
        for wait in self._pending.values():
            wait.held_up(error)

    def _pause(self, seconds: float) -> None:
        now = time.monotonic()
        until = now + seconds if self._deadline is None else min(now + seconds, self._deadline)
        if self._interrupt is None:
            time.sleep(max(0.0, until - now))
        else:
            from mlc_jit.interrupt import readable  # noqa: PLC0415 - not for a hit

            readable(self._interrupt.fileno(), self._interrupt, until)

    def _connected(self) -> wire.Channel:
        if self._asked_over is not None:
            return self._asked_over  # whoever has the question answers it, though another may be at the path by now
        channel = wire.current(self._places.socket)
        if channel is None:
            from mlc_jit import autostart  # noqa: PLC0415 - subprocess and filelock: not for a hit

            autostart.ensure(self._places)
            channel = wire.connect(self._places.socket)
        return channel

    def _hear(self, channel: wire.Channel) -> None:
        """Ask what is pending, and hear it out."""
        begun = time.monotonic()
        asked = self._asked()
        if channel is not self._asked_over:
            for wait in asked:
                channel.post(wait.question.frame(wait.id))
        self._asked_over = None
        silence = asked[0].question.silence if asked else settings.silence_seconds()
        frame = self._first
        self._first = None
        vigil = Vigil(self._places.socket, silence, begun)
        while True:
            if frame is not None:
                vigil.word(time.monotonic())
                self._dispatch(frame)
                if not self._pending:
                    return
            self._on_time(channel, time.monotonic())
            if not self._pending:
                return
            frame = channel.take(self._patience(vigil), self._interrupt)
            if frame is None:
                self._silence(channel, vigil, time.monotonic())

    def _silence(self, channel: wire.Channel, vigil: Vigil, now: float) -> None:
        """Nothing was said for a while."""
        asked = self._asked()
        if asked and now >= vigil.due:
            step = vigil.silent(now, wire.reach(self._places.socket))
            channel.remind(step, (wait.question.frame(wait.id) for wait in asked))

    def _asked(self) -> list[Wait]:
        return [wait for wait in self._pending.values() if wait.again_at is None]

    def _patience(self, vigil: Vigil) -> float:
        """Seconds until something is to be done although nothing is said."""
        times = [wait.again_at for wait in self._pending.values() if wait.again_at is not None]
        if len(times) < len(self._pending):
            times.append(vigil.due)
        if self._deadline is not None:
            times.append(self._deadline)
        return max(0.0, min(times) - time.monotonic())

    def _dispatch(self, frame: bytes) -> None:
        message = wire.heard(frame)
        wait = None if message is None else self._pending.get(message.id)
        if message is None or wait is None:
            return
        then = wait.take(message, self._places, time.monotonic())
        if then == "elsewhere":
            raise DrainingError("The mlc-jitd daemon is stopping.", remedy="Ask again.")
        if then == "answered":
            self._end(wait)

    def _on_time(self, channel: wire.Channel, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._leave(channel)
            self._end_all(out_of_time())
            return
        for wait in self._pending.values():
            if wait.again_at is not None and now >= wait.again_at:
                wait.again_at = None
                channel.post(wait.question.frame(wait.id))

    def _end(self, wait: Wait) -> None:
        del self._pending[wait.id]
        if self._on_end is not None and wait.outcome is not None:
            if isinstance(wait.outcome, JitError) and does_without(wait.outcome):
                return  # it is not over yet
            self._on_end(wait.place, wait.outcome)

    def _end_all(self, error: JitError) -> None:
        for wait in list(self._pending.values()):
            wait.outcome = error
            self._end(wait)

    def _leave(self, channel: wire.Channel) -> None:
        for wait in self._pending.values():
            channel.send(m.Leave(id=wait.id, cancel=self._cancel_alone))
        if self._cancel_alone:
            channel.settle()  # the process is about to end, and an unsent word ends with it


def out_of_time() -> WaitTimedOutError:
    """The caller's limit has come."""
    return WaitTimedOutError(
        "The library is not there within the time limit of this call; its compile goes on.",
        remedy="Ask again later: who asks joins the compile. The limit is `timeout`, or MLC_JITD_WAIT_SECONDS.",
    )


def heeded(answer: m.Result) -> m.Result:
    """The answer; what there is to know of its library is logged, once in this process."""
    if answer.warning and answer.path not in _warned_of:
        _warned_of.add(answer.path)
        log.warning("%s", answer.warning)
    return answer


_warned_of: set[str] = set()


def visible(answer: m.Result, places: Locations) -> m.Result | StoreError:
    """The answer with a path that this process can see: its mounts may not be the daemon's. Else, why it can't."""
    if os.path.exists(answer.path):  # noqa: PTH110 - on the hit path
        return answer
    here = places.home / "model_lib" / Path(answer.path).name
    if here.exists():
        return dataclasses.replace(answer, path=os.fspath(here))
    theirs = Path(answer.path).parent.parent
    return StoreError(
        f"The daemon's library {answer.path} can't be seen from this process, nor {here}.",
        remedy=f"Mount {theirs}, which is the daemon's cache home or a layer below it, at that path here too; or set "
        "MLC_LLM_HOME to where the home is mounted.",
        reason=UNSEEN,
        key=answer.key,
    )


def does_without(trouble: JitError) -> bool:
    """Whether an error is the daemon's trouble, so that the work is to be done without it.

    Not for a full queue, which to go on would be to jump; nor for a cache that nobody can write.
    """
    if settings.mode() == "require" or isinstance(trouble, BusyError):
        return False
    if isinstance(trouble, StoreError) and trouble.reason == UNSEEN:
        return True  # what this process makes in a home that both see is what the daemon hands out from then on
    if isinstance(trouble, StoreUnwritableError):
        return not trouble.key and trouble.reason != NO_HOME
    return isinstance(trouble, DaemonError) or trouble.reason == "internal"
