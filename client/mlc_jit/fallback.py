"""No daemon to be had: do the same work in one process of our own; upstream's ``jit()`` is the last resort."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from mlc_jit import messages as m
from mlc_jit.errors import (
    DaemonUnavailableError,
    JitError,
    ProtocolError,
    ToolchainNotFoundError,
    WaitTimedOutError,
)
from mlc_jit.interrupt import readable
from mlc_jit.variables import without_startup

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jit.interrupt import Interrupt

logger = logging.getLogger("mlc_jit")

R = TypeVar("R", bound=m.Message)

ORIGINAL = "_mlc_jit_original"
"""The attribute of an installed ``jit`` that holds what was there before."""

END_SECONDS = 10.0
"""How long ``mlc-jitd once`` may take to end its compile when nobody wants it any more."""

LINGER_SECONDS = 1.0
"""How long one is waited for that has answered. It may have to tidy up the cache, and does that alone."""

_warned = False


def warn_once(error: JitError) -> None:
    """Say, once in this process, that it goes on without a daemon and why."""
    global _warned  # noqa: PLW0603
    level = logging.DEBUG if _warned else logging.WARNING
    _warned = True
    logger.log(level, "mlc-jitd: going on without a daemon: %s", error)


def once(
    request: m.JitRequest,
    on_progress: Callable[[m.Progress], None],
    interrupt: Interrupt | None = None,
    deadline: float | None = None,
) -> m.Result:
    """``ask_once`` for a library."""
    return ask_once(request, m.Result, on_progress, interrupt, deadline)


def ask_once(
    request: m.Message,
    kind: type[R],
    on_progress: Callable[[m.Progress], None] = lambda _progress: None,
    interrupt: Interrupt | None = None,
    deadline: float | None = None,
) -> R:
    """Answer a request with ``mlc-jitd once``: the daemon's code and locks, in one process that ends with this one.

    Args:
        request: ``JitRequest`` or ``Explain``.
        kind: What answers it.
        on_progress: Told how far it is, if the request wants that.
        interrupt: Ends the work from another thread.
        deadline: Monotonic seconds at which the work is given up.

    Raises:
        KeyboardInterrupt: ``interrupt`` was set.
        WaitTimedOutError: ``deadline`` has come.
        DaemonUnavailableError: That process could not be started or died without an answer.
        JitError: Its answer.
    """
    command = [sys.executable, "-P", "-m", "mlc_jitd", "once"]
    payload = m.encode(request)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=_absolute_home(),
            bufsize=0,
            start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
        )
    except OSError as error:
        raise DaemonUnavailableError(f"`mlc-jitd once` can't be started: {error}.", reason="once") from error
    assert process.stdin is not None
    assert process.stdout is not None
    answered = False
    with contextlib.closing(process.stdout):
        try:
            process.stdin.write(struct.pack(">I", len(payload)) + payload)
            while (reply := _reply(process.stdout, interrupt, deadline)) is not None:
                if isinstance(reply, m.Progress):
                    on_progress(reply)
                elif isinstance(reply, m.Failure):
                    raise reply.error()
                elif isinstance(reply, kind):
                    answered = True
                    return reply
        except BrokenPipeError:
            pass
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # it ends what it is doing when nobody listens any more
            _end(process, answered=answered)
    raise DaemonUnavailableError(
        f"`mlc-jitd once` ended without an answer (exit status {process.returncode}).", reason="once"
    )


def _end(process: subprocess.Popen[bytes], *, answered: bool) -> None:
    try:
        process.wait(LINGER_SECONDS if answered else END_SECONDS)
    except subprocess.TimeoutExpired:
        if answered:
            threading.Thread(target=process.wait, name="mlc-jitd once", daemon=True).start()  # else it stays a zombie
        else:
            process.kill()
            process.wait()


def _absolute_home() -> dict[str, str]:
    """The caller's environment for a process with another working folder."""
    env = dict(os.environ)
    for name in ("MLC_LLM_HOME", "XDG_CACHE_HOME"):
        if env.get(name):
            env[name] = os.fspath(Path(env[name]).absolute())
    if "PYTHONPATH" in env:
        env["PYTHONPATH"] = without_startup(env["PYTHONPATH"])
    return env


def _reply(stream: IO[bytes], interrupt: Interrupt | None, deadline: float | None) -> m.Message | None:
    header = _exactly(stream, 4, interrupt, deadline)
    if header is None:
        return None
    payload = _exactly(stream, struct.unpack(">I", header)[0], interrupt, deadline)
    return None if payload is None else m.decode(payload, m.REPLIES, strict=True)


def _exactly(stream: IO[bytes], size: int, interrupt: Interrupt | None, deadline: float | None) -> bytes | None:
    parts = b""
    while len(parts) < size:
        if not readable(stream.fileno(), interrupt, deadline):
            raise WaitTimedOutError(
                "The library is not there within the time limit of this call, and no daemon was to be had.",
                remedy="The limit is `timeout`, or MLC_JITD_WAIT_SECONDS.",
            )
        chunk = stream.read(size - len(parts))
        if not chunk:
            return None
        parts += chunk
    return parts


def upstream(
    model_path: Path,
    overrides: dict[str, Any],
    device: Any,
    system_lib_prefix: str | None,
    *,
    skip_log_jit_policy: bool,
) -> tuple[str, str | None]:
    """Upstream's own in-process ``jit()``, on a copy of the overrides, which it would change.

    Raises:
        ToolchainNotFoundError: This interpreter has no mlc_llm.
    """
    try:
        from mlc_llm.interface import jit as module  # noqa: PLC0415 - may not be installed, and takes seconds
    except ImportError as error:
        raise ToolchainNotFoundError(
            f"There is no mlc-jitd daemon to ask, and {sys.executable} can't import mlc_llm to compile by itself.",
            remedy="Unset MLC_JITD=off where it is set, or install MLC's wheels (https://mlc.ai/wheels).",
        ) from error
    jit = getattr(module.jit, ORIGINAL, module.jit)  # never ours, where install() has put it there
    done = jit(
        model_path=model_path,
        overrides=dict(overrides),
        device=device,
        system_lib_prefix=system_lib_prefix,
        skip_log_jit_policy=skip_log_jit_policy,
    )
    return done.model_lib_path, done.system_lib_prefix


def is_last_resort(error: JitError) -> bool:
    """Whether an error of ``once`` says that our own code could not work, so that upstream's may be tried."""
    return isinstance(error, (DaemonUnavailableError, ProtocolError)) or error.reason == "internal"
