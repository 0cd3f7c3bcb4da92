"""What is asked on nobody's behalf: kept questions whose config changed, and the list of a pre-warming daemon.

A few at a time, so that one long list fills no queue; what finds the queue full is asked again later. From one thread,
but for ``done``, which the engine calls in its own.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.conversation import PASSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.asks import Keep, Question

AT_A_TIME = 4
AGAIN_SECONDS = 30.0
MOST_TRIES = 20

Answer = m.Result | m.Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An entry that should be there.

    Attributes:
        folder: Whose.
        question: What is asked of it.
        keep: How the entry is kept once it is there.
        request: The question with the config of now.
        anew: It is to be kept from now on; else only if it still is when the answer comes.
    """

    folder: str
    question: Question
    keep: Keep
    request: m.JitRequest
    anew: bool = False
    tries: int = 0

    @property
    def name(self) -> tuple[str, Question]:
        """A newer one with this name takes an older one's place."""
        return self.folder, self.question


class Background:
    """See the module's docstring.

    Args:
        ask: The engine's.
        done: Gets each answer, in the engine's thread; who gets it calls ``ended``.
    """

    def __init__(
        self,
        ask: Callable[[m.JitRequest, Callable[[Answer], None]], None],
        done: Callable[[Wanted, Answer], None],
    ) -> None:
        self._ask = ask
        self._done = done
        self._waiting: deque[Wanted] = deque()
        self._later: list[tuple[float, Wanted]] = []
        self._asked = 0

    def add(self, wanted: Wanted) -> None:
        """Ask for something, soon."""
        self._waiting = deque(each for each in self._waiting if each.name != wanted.name)
        self._later = [each for each in self._later if each[1].name != wanted.name]
        self._waiting.append(wanted)
        self._go_on()

    def ended(self, wanted: Wanted, answer: Answer, now: float) -> bool:
        """An answer came; whether it is the last word."""
        self._asked -= 1
        passing = isinstance(answer, m.Failure) and answer.kind == "busy" and answer.reason in PASSING
        if passing and wanted.tries < MOST_TRIES:
            self._later.append((now + AGAIN_SECONDS, dataclasses.replace(wanted, tries=wanted.tries + 1)))
        self._go_on()
        return not passing or wanted.tries >= MOST_TRIES

    def on_time(self, now: float) -> None:
        """Ask again what is due."""
        for due, wanted in list(self._later):
            if due <= now:
                self._later.remove((due, wanted))
                self._waiting.append(wanted)
        self._go_on()

    @property
    def pending(self) -> int:
        """How many are asked or still to be asked."""
        return self._asked + len(self._waiting) + len(self._later)

    def _go_on(self) -> None:
        while self._waiting and self._asked < AT_A_TIME:
            wanted = self._waiting.popleft()
            self._asked += 1
            self._ask(wanted.request, self._teller(wanted))

    def _teller(self, wanted: Wanted) -> Callable[[Answer], None]:
        return lambda answer: self._done(wanted, answer)
