"""Asking for libraries: of the daemon where there is one, and without it where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.conversation import Conversation, OnEnd, OnProgress, Wait, does_without, heeded
from mlc_jit.errors import JitError, ToolchainNotFoundError
from mlc_jit.locations import locate
from mlc_jit.request import Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlc_jit.hit import Begun
    from mlc_jit.interrupt import Interrupt


def ask(
    question: Question | m.JitRequest,
    *,
    on_progress: OnProgress | None = None,
    cancel_alone: bool = False,
    interrupt: Interrupt | None = None,
    deadline: float | None = None,
    begun: Begun | None = None,
) -> m.Result:
    """Ask the daemon, starting one if need be, or do without.

    Args:
        question: What to ask; a request's ``id`` and ``progress`` are set here.
        on_progress: Told how far it is; a ``Question`` must have been made with ``progress``.
        cancel_alone: When this wait is interrupted, end a compile that nobody else waits for.
        interrupt: Ends the wait from another thread.
        deadline: Monotonic seconds at which the caller gives up.
        begun: The question was asked already, like this.

    Raises:
        KeyboardInterrupt: ``interrupt`` was set.
        WaitTimedOutError: ``deadline`` has come.
        JitError: No library; never just because of the daemon, as long as the work can be done without one.
    """
    wait = Wait(_question(question, on_progress), on_progress)
    if begun is not None:
        wait.id = begun.id
    _ask([wait], cancel_alone=cancel_alone, interrupt=interrupt, deadline=deadline, begun=begun)
    if isinstance(wait.outcome, m.Result):
        return wait.outcome
    assert wait.outcome is not None
    raise wait.outcome


def ask_all(
    questions: Sequence[Question | m.JitRequest],
    *,
    on_progress: Sequence[OnProgress | None] = (),
    on_end: OnEnd | None = None,
    cancel_alone: bool = False,
    deadline: float | None = None,
) -> list[m.Result | JitError]:
    """Ask several at once: one round trip for all that are in the cache, and one wait for all others.

    Args:
        questions: What to ask.
        on_progress: For each question, told how far it is.
        on_end: Told the place of each question and its outcome as soon as there is one; what it raises ends all.
        cancel_alone: As for ``ask``.
        deadline: As for ``ask``.

    Returns:
        For each question its result, or its error.
    """
    tells = on_progress or [None] * len(questions)
    waits = [
        Wait(_question(each, tell), tell, place)
        for place, (each, tell) in enumerate(zip(questions, tells, strict=True))
    ]
    _ask(waits, cancel_alone=cancel_alone, interrupt=None, deadline=deadline, on_end=on_end)
    return [wait.outcome or JitError("Nothing became of this question.") for wait in waits]


def _question(question: Question | m.JitRequest, tell: OnProgress | None) -> Question:
    if isinstance(question, Question):
        return question
    if tell is not None:
        question = dataclasses.replace(question, progress=True)
    return Question.of(question)


def _ask(
    waits: list[Wait],
    *,
    cancel_alone: bool,
    interrupt: Interrupt | None,
    deadline: float | None,
    on_end: OnEnd | None = None,
    begun: Begun | None = None,
) -> None:
    """Until each has an outcome."""
    try:
        places = locate()
    except JitError as error:
        for wait in waits:
            wait.outcome = error
            if on_end is not None and not does_without(error):
                on_end(wait.place, error)
    else:
        Conversation(
            places, waits, cancel_alone=cancel_alone, interrupt=interrupt, deadline=deadline, on_end=on_end, begun=begun
        ).run()
    for wait in waits:
        if isinstance(wait.outcome, JitError) and does_without(wait.outcome):
            try:
                wait.outcome = without_daemon(wait.question.request, wait.outcome, wait.tell, interrupt, deadline)
            except JitError as error:
                wait.outcome = error
            if on_end is not None:
                on_end(wait.place, wait.outcome)


def without_daemon(
    request: m.JitRequest,
    trouble: JitError,
    tell: OnProgress | None,
    interrupt: Interrupt | None,
    deadline: float | None,
) -> m.Result:
    """The library by ``mlc-jitd once``, or where not even that works by upstream's own ``jit()``.

    Raises:
        JitError: No library.
    """
    from mlc_jit import fallback  # noqa: PLC0415 - not for a hit

    fallback.warn_once(trouble)
    try:
        return heeded(fallback.once(request, tell or _ignore, interrupt, deadline))
    except JitError as error:
        if not fallback.is_last_resort(error):
            raise
        trouble = error
    overrides = {**request.overrides, **({"opt": request.opt} if request.opt else {})}
    try:
        path, prefix = fallback.upstream(
            Path(request.model_path), overrides, request.device, request.system_lib_prefix, skip_log_jit_policy=True
        )
    except ToolchainNotFoundError:
        raise trouble from None
    return m.Result(path=path, key="", system_lib_prefix=prefix, source="compiled", toolchain="mlc_llm")


def _ignore(_progress: m.Progress) -> None:
    return
