"""What follows from a changed config: keys are worked out, and what is kept is asked for again, ahead of its start.

Every method but the tasks of the asker is called in the watcher's thread.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit import prewarming
from mlc_jit.errors import JitError
from mlc_jitd.asks import Question
from mlc_jitd.watch.background import Answer, Background, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlc_jitd.asks import Asks, Folder
    from mlc_jitd.engine import Engine
    from mlc_jitd.watch.arming import Watched
    from mlc_jitd.watch.look import Look
    from mlc_jitd.watch.watcher import Watcher
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)


class Following:
    """See the module's docstring.

    Args:
        engine: Is asked.
        work: Works keys out.
        asks: Who asks for what.
        watcher: Has the thread, the registry's changes and the subscribers.
        listed: Lists of what the daemon is to have from its start.
    """

    def __init__(self, engine: Engine, work: Work, asks: Asks, watcher: Watcher, listed: Sequence[Path]) -> None:
        self._work = work
        self._asks = asks
        self._watcher = watcher
        self._listed = listed
        self._background = Background(engine.ask, lambda wanted, answer: watcher.post(self._answered, wanted, answer))

    def begin(self) -> None:
        """Ask for what the lists name. What is kept besides is asked for when its folder is first looked at."""
        if self._listed:
            self._watcher.asker.do(self._read_lists)

    @property
    def pending(self) -> int:
        """How many questions are asked in the background, or still to be asked."""
        return self._background.pending

    def on_time(self, now: float) -> None:
        """Ask again for what found no place in the queue."""
        self._background.on_time(now)

    def changed(self, held: Watched, found: Look, *, back: bool) -> None:
        """A folder's config changed, or is back.

        The keys are worked out before anything is noted: a change that does not reach a key makes it never stale.
        """
        watcher = self._watcher
        watcher.tally.add("changed")
        watcher.subscribers.tell("back" if back else "changed", folder=held.path, detail=f"config {found.config[:12]}")
        logger.info("the config in %s %s", held.path, "is back" if back else "changed")

        def task() -> None:
            folder = self._asks.folder(held.path)
            keys: list[tuple[Question, str]] = []
            for ask in folder.asks if folder is not None else ():
                try:
                    key = self._work.identifier.identify(ask.question.request(found.payload, held.path)).key
                except JitError as error:
                    logger.info("%s on %s: %s", held.path, ask.question.device, error.message)
                else:
                    keys.append((ask.question, key))
            watcher.post(self._worked_out, held, found, keys)

        watcher.asker.do(task)

    def _worked_out(self, held: Watched, found: Look, keys: list[tuple[Question, str]]) -> None:
        if held.state.config != found.config:
            return  # it changed once more meanwhile

        def how(folder: Folder) -> Folder:
            folder = folder.saw(found.config, now=time.time())
            for question, key in keys:
                folder = folder.told(question, found.config, key, now=0.0)
            return folder

        self._watcher.admit(self._watcher.change(held.path, how))
        self.want_kept(held, found)

    def want_kept(self, held: Watched, found: Look) -> None:
        """Ask for what is kept of a folder: once for each config, and once in the life of each daemon."""
        held.wanted = found.config
        folder = self._asks.folder(held.path)
        for ask in folder.asks if folder is not None else ():
            if ask.keep:
                request = ask.question.request(found.payload, held.path)
                self._want(Wanted(folder=held.path, question=ask.question, keep=ask.keep, request=request))

    def _want(self, wanted: Wanted) -> None:
        self._watcher.tally.add("prewarms")
        self._watcher.subscribers.tell("prewarming", folder=wanted.folder, detail=wanted.question.label())
        self._background.add(wanted)

    def _answered(self, wanted: Wanted, answer: Answer) -> None:
        if not self._background.ended(wanted, answer, time.monotonic()):
            return
        watcher = self._watcher
        if isinstance(answer, m.Failure):
            watcher.tally.add("prewarm_failures")
            logger.warning("%s on %s is not there: %s", wanted.folder, wanted.question.label(), answer.message)
            watcher.subscribers.tell("failed", folder=wanted.folder, key=answer.key, detail=answer.message)
            return

        def how(folder: Folder) -> Folder:
            return folder.keeping(wanted.question, wanted.keep, answer.key, anew=wanted.anew)

        watcher.change(wanted.folder, how)
        watcher.subscribers.tell("ready", folder=wanted.folder, key=answer.key, detail=wanted.question.label())

    def _read_lists(self) -> None:
        """In the asker's thread: it reads model folders."""
        for path in self._listed:
            try:
                items = prewarming.read(path)
            except JitError as error:
                self._tell_failure(str(path), error)
                continue
            for item in items:
                try:
                    request = item.request()
                except JitError as error:
                    self._tell_failure(item.model, error)
                    continue
                wanted = Wanted(
                    folder=request.model_path,
                    question=Question.of(request),
                    keep="pin" if item.pin else "prewarm",
                    request=request,
                    anew=True,
                )
                self._watcher.post(self._want, wanted)

    def _tell_failure(self, what: str, error: JitError) -> None:
        logger.warning("%s is not pre-warmed: %s", what, error)
        self._watcher.tally.add("prewarm_failures")
        self._watcher.subscribers.tell("failed", folder=what, detail=error.message)
