"""The drop-in call as upstream has it, for threads and for event loops. Several at once are ``batch``'s."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mlc_jit import hit, log, settings
from mlc_jit.request import device_text, make_request, question, read_config
from mlc_jit.settings import jit_policy, silence_seconds

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from mlc_jit import messages as m
    from mlc_jit.asking import ask, ask_all
    from mlc_jit.conversation import OnProgress
    from mlc_jit.progress import ProgressLine
    from mlc_jit.request import Question

__all__ = [
    "JITResult", "ajit", "ask", "ask_all", "device_text", "jit", "jit_policy", "library", "make_request",
    "read_config", "silence_seconds",
]  # fmt: skip


class JITResult:
    """What ``jit()`` gives back; the same two fields, in the same order, as upstream's class of this name.

    Compared and shown as that one, though no dataclass: see ``settings.Settings``.
    """

    __match_args__ = ("model_lib_path", "system_lib_prefix")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, model_lib_path: str, system_lib_prefix: str | None = None) -> None:
        self.model_lib_path = model_lib_path
        self.system_lib_prefix = system_lib_prefix

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"JITResult(model_lib_path={self.model_lib_path!r}, system_lib_prefix={self.system_lib_prefix!r})"


def jit(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None = None,
    *,
    skip_log_jit_policy: bool = False,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> JITResult:
    """The library for a model and configuration: from this host's cache, or compiled once for everybody who asks.

    A drop-in for ``mlc_llm.interface.jit.jit`` (mlc-llm 79d603f0). Unlike that one it never changes ``overrides``,
    reads ``MLC_JIT_POLICY`` at each call, and writes nothing to standard output.

    Args:
        model_path: Folder that holds ``mlc-chat-config.json``.
        overrides: Compile-time overrides by name, and ``opt``; ``None`` values count as absent.
        device: A tvm ``Device``, or text such as ``cuda:0``, ``cpu``, ``android``.
        system_lib_prefix: For static libraries; upstream's rule gives one for iphone, macabi and android.
        skip_log_jit_policy: Don't log the policy.
        on_progress: Called in this thread with each progress message while a compile is waited for.
        timeout: Seconds that this call may take; by default ``MLC_JITD_WAIT_SECONDS``, else there is no limit.

    Returns:
        The library's absolute path and the prefix. The file is never changed or replaced in place.

    Raises:
        ConfigNotFoundError: No config there; a ``FileNotFoundError``.
        RequestError: Something in the request is wrong; the message names it.
        JitDisabledError: The policy is OFF.
        NotCachedError: The policy is READONLY and there is no usable entry.
        CompileError: The compiler failed.
        WaitTimedOutError: ``timeout`` is over; a ``TimeoutError``. The compile goes on.
        JitError: Anything else; all of these are ``RuntimeError``.
    """
    answer = library(
        model_path,
        overrides,
        device,
        system_lib_prefix,
        log_policy=not skip_log_jit_policy,
        on_progress=on_progress,
        timeout=timeout,
    )
    if answer is None:
        return upstream(model_path, overrides, device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy)
    return JITResult(answer.path, answer.system_lib_prefix)


def library(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    log_policy: bool,
    logger: logging.Logger | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> hit.Hit | m.Result | None:
    """``jit()`` with a logger of the caller's choice; ``None`` where ``MLC_JITD=off`` asks for upstream's.

    Raises:
        JitError: As ``jit()``.
    """
    if _calls < ENOUGH_CALLS:
        _count()
    quick = on_progress is None and timeout is None
    call = hit.recall(model_path, overrides, device, system_lib_prefix) if quick else None
    if call is None and settings.current().mode == "off":
        return None
    if log_policy:
        tell_policy(logger)
    found: hit.Hit | hit.Begun | None = None
    if call is not None:
        asked = call.question
        found = call.ask()
    else:
        progress = on_progress is not None or on_terminal()
        asked = question(model_path, overrides, device, system_lib_prefix, progress=progress)
        if quick and settings.current().wait is None:
            found = hit.ask(asked, model_path, overrides, device, system_lib_prefix)
    answer = found if isinstance(found, hit.Hit) else _ask(asked, found, on_progress, deadline_of(timeout))
    tell_answer(answer, logger)
    return answer


ENOUGH_CALLS = 2
_calls = 0


def _count() -> None:
    """Who asks a second time will live: all that a later call may need is loaded now, while it is of this version."""
    global _calls  # noqa: PLW0603
    _calls += 1
    if _calls == ENOUGH_CALLS:
        from mlc_jit import asking, autostart  # noqa: F401, PLC0415 - not for a process that asks once


def _ask(asked: Question, begun: hit.Begun | None, tell: OnProgress | None, deadline: float | None) -> m.Result:
    """Ask what is no plain hit; on a terminal with a progress line, once there is progress."""
    from mlc_jit.asking import ask  # noqa: PLC0415 - not for a hit

    if tell is not None or not on_terminal():
        return ask(asked, on_progress=tell, deadline=deadline, begun=begun)
    line: ProgressLine | None = None

    def show(step: m.Progress) -> None:
        nonlocal line
        if line is None:
            from mlc_jit import progress as shown  # noqa: PLC0415 - only where somebody watches

            line = shown.ProgressLine(os.path.basename(asked.request.model_path))  # noqa: PTH119 - a text
            line.__enter__()
        line(step)

    try:
        return ask(asked, on_progress=show, deadline=deadline, begun=begun)
    finally:
        if line is not None:
            line.__exit__(None, None, None)


async def ajit(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None = None,
    *,
    skip_log_jit_policy: bool = False,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the same as of jit()
) -> JITResult:
    """``jit()`` for a running event loop, which it does not block. All calls of a loop share one connection.

    Cancelling the task ends the wait and tells the daemon: what is queued for nobody else is dropped; a compile that
    has begun goes on, as when a client leaves. Arguments, result and errors as for ``jit()``; ``on_progress`` is called
    in the loop. Reading the config is the one thing that is done in the loop's own thread.
    """
    from mlc_jit import aio  # noqa: PLC0415 - asyncio takes as long to import as all the rest; the caller has it

    if settings.mode() == "off":
        return await aio.in_thread(
            lambda: upstream(model_path, overrides, device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy)
        )
    if not skip_log_jit_policy:
        tell_policy()
    asked = question(model_path, overrides, device, system_lib_prefix, progress=on_progress is not None)
    answer = await aio.ask(asked, on_progress=on_progress, deadline=deadline_of(timeout))
    tell_answer(answer)
    return JITResult(answer.path, answer.system_lib_prefix)


# --- inside -----------------------------------------------------------------------------------------------------------


def deadline_of(timeout: float | None) -> float | None:
    """When a call gives up, in monotonic seconds."""
    seconds = settings.current().wait if timeout is None else timeout
    return None if seconds is None else time.monotonic() + seconds


def upstream(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    skip_log_jit_policy: bool,
) -> JITResult:
    """Upstream's own, as ``MLC_JITD=off`` asks for."""
    from pathlib import Path  # noqa: PLC0415 - not for a hit

    from mlc_jit import fallback  # noqa: PLC0415 - not for a hit

    done = fallback.upstream(
        Path(model_path), dict(overrides or {}), device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy
    )
    return JITResult(*done)


def tell_policy(logger: logging.Logger | None = None) -> None:
    """Log the policy, as upstream does."""
    policy = settings.current().policy or settings.jit_policy()
    log.info("MLC_JIT_POLICY = %s. Can be one of: ON, OFF, REDO, READONLY", policy, log=logger)


def tell_answer(answer: hit.Hit | m.Result, logger: logging.Logger | None = None) -> None:
    """Log which library it is, as upstream does."""
    how = "cached" if answer.source == "hit" else "compiled"
    log.info("Using %s model lib: %s", how, answer.path, log=logger)


def on_terminal() -> bool:
    """Whether somebody watches standard error, whatever a caller has put in its place."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, OSError, ValueError):
        return False


def __getattr__(name: str) -> Any:
    if name not in ("ask", "ask_all"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlc_jit import asking  # noqa: PLC0415 - not for a hit

    return getattr(asking, name)
