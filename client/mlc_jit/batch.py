"""Several libraries at once: one round trip for all that are in the cache, one wait for all others together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from mlc_jit import api, settings
from mlc_jit import messages as m
from mlc_jit.asking import ask_all
from mlc_jit.errors import JitError
from mlc_jit.request import Question, question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mlc_jit.api import JITResult
    from mlc_jit.conversation import OnProgress
    from mlc_jit.progress import Show


@dataclass(frozen=True, slots=True)
class JITCall:
    """The arguments of one ``jit()``, for ``jit_many()``."""

    model_path: Path | str
    overrides: Mapping[str, Any] | None
    device: Any
    system_lib_prefix: str | None = None


Call = JITCall | tuple[Any, ...]
"""A ``JITCall``, or a tuple of ``jit()``'s positional arguments."""


@overload
def jit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: Literal[False] = False,
    skip_log_jit_policy: bool = False,
    on_progress: Callable[[int, m.Progress], None] | None = None,
    timeout: float | None = None,
) -> list[JITResult]: ...


@overload
def jit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: bool,
    skip_log_jit_policy: bool = False,
    on_progress: Callable[[int, m.Progress], None] | None = None,
    timeout: float | None = None,
) -> list[JITResult | JitError]: ...


def jit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: bool = False,
    skip_log_jit_policy: bool = False,
    on_progress: Callable[[int, m.Progress], None] | None = None,
    timeout: float | None = None,
) -> list[JITResult] | list[JITResult | JitError]:
    """Several ``jit()`` at once: one round trip for all that are in the cache, one wait for all others together.

    Args:
        calls: For each library a ``JITCall``, or a tuple of ``jit()``'s positional arguments.
        return_exceptions: Put errors where their results would be, and wait for all others. Else the first error that
            comes is raised and the other waits end; a compile that has begun goes on.
        skip_log_jit_policy: Don't log the policy.
        on_progress: Called in this thread with a call's place in ``calls`` and each of its progress messages.
        timeout: Seconds that all may take together.

    Returns:
        Results in the order of the calls.

    Raises:
        JitError: As ``jit()``.
    """
    wanted = [call if isinstance(call, JITCall) else JITCall(*call) for call in calls]
    if settings.mode() == "off":
        return [_upstream_or_error(call, return_exceptions, skip_log_jit_policy) for call in wanted]
    if not skip_log_jit_policy:
        api.tell_policy()
    tells, close = _tells(wanted, on_progress)
    outcomes: list[m.Result | JitError] = []
    places: list[int] = []
    asked: list[Question] = []
    for place, call in enumerate(wanted):
        found = _question(call, progress=tells is not None)
        if isinstance(found, Question):
            places.append(place)
            asked.append(found)
        elif not return_exceptions:
            close()
            raise found
        outcomes.append(found if isinstance(found, JitError) else JitError("Nothing became of this call."))

    def ended(_place: int, outcome: m.Result | JitError) -> None:
        if isinstance(outcome, JitError) and not return_exceptions:
            raise _EnoughError(outcome)

    try:
        told = [] if tells is None else [tells[place] for place in places]
        answers = ask_all(asked, on_progress=told, on_end=ended, deadline=api.deadline_of(timeout))
    except _EnoughError as error:
        raise error.first from None
    finally:
        close()
    for place, answer in zip(places, answers, strict=True):
        outcomes[place] = answer
    return [_result(outcome) for outcome in outcomes]


class _EnoughError(Exception):
    """One has failed, and that is all the caller wants to know."""

    def __init__(self, first: JitError) -> None:
        super().__init__(first.message)
        self.first = first


@overload
async def ajit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: Literal[False] = False,
    skip_log_jit_policy: bool = False,
    timeout: float | None = None,  # noqa: ASYNC109 - see below
) -> list[JITResult]: ...


@overload
async def ajit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: bool,
    skip_log_jit_policy: bool = False,
    timeout: float | None = None,  # noqa: ASYNC109 - see below
) -> list[JITResult | JitError]: ...


async def ajit_many(
    calls: Iterable[Call],
    *,
    return_exceptions: bool = False,
    skip_log_jit_policy: bool = False,
    timeout: float | None = None,  # noqa: ASYNC109 - the same as of jit_many()
) -> list[JITResult] | list[JITResult | JitError]:
    """``jit_many()`` for a running event loop.

    Cancelling the task ends all its waits. Arguments, results and errors as for ``jit_many()``.
    """
    import asyncio  # noqa: PLC0415 - see ajit

    wanted = [call if isinstance(call, JITCall) else JITCall(*call) for call in calls]
    if not skip_log_jit_policy and settings.mode() != "off":
        api.tell_policy()

    async def one(call: JITCall) -> JITResult | JitError:
        try:
            return await api.ajit(
                call.model_path,
                call.overrides,
                call.device,
                call.system_lib_prefix,
                skip_log_jit_policy=True,
                timeout=timeout,
            )
        except JitError as error:
            if return_exceptions:
                return error
            raise

    tasks = [asyncio.ensure_future(one(call)) for call in wanted]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # those that still wait when the first one has failed
        await asyncio.gather(*tasks, return_exceptions=True)


# --- inside -----------------------------------------------------------------------------------------------------------


def _question(call: JITCall, *, progress: bool) -> Question | JitError:
    try:
        return question(call.model_path, call.overrides, call.device, call.system_lib_prefix, progress=progress)
    except JitError as error:
        return error


def _result(outcome: m.Result | JitError) -> Any:
    if isinstance(outcome, JitError):
        return outcome
    api.tell_answer(outcome)
    return api.JITResult(outcome.path, outcome.system_lib_prefix)


def _tells(
    wanted: list[JITCall], on_progress: Callable[[int, m.Progress], None] | None
) -> tuple[list[OnProgress] | None, Callable[[], None]]:
    """For each call what it tells its progress, and what to call in the end; none where nobody wants to know."""
    if on_progress is not None:
        told = on_progress
        return [_telling(told, place) for place in range(len(wanted))], _nothing
    if not api.on_terminal():
        return None, _nothing
    from mlc_jit.progress import Board  # noqa: PLC0415 - only where somebody watches

    board = Board()
    board.__enter__()
    shows: list[Show] = [board.add(os.path.basename(os.fspath(call.model_path))) for call in wanted]  # noqa: PTH119
    return list(shows), lambda: board.__exit__(None, None, None)


def _telling(on_progress: Callable[[int, m.Progress], None], place: int) -> OnProgress:
    return lambda progress: on_progress(place, progress)


def _nothing() -> None:
    return


def _upstream_or_error(call: JITCall, return_exceptions: bool, skip_log_jit_policy: bool) -> Any:
    try:
        return api.upstream(
            call.model_path,
            call.overrides,
            call.device,
            call.system_lib_prefix,
            skip_log_jit_policy=skip_log_jit_policy,
        )
    except JitError as error:
        if return_exceptions:
            return error
        raise
