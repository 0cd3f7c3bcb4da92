"""The drop-in call: policy, device to text, request, result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import operator
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mlc_jit import channel as wire
from mlc_jit import fallback, variables
from mlc_jit import messages as m
from mlc_jit.errors import (
    BusyError,
    ConfigInvalidError,
    ConfigNotFoundError,
    DaemonError,
    DaemonUnavailableError,
    DeviceInvalidError,
    DrainingError,
    JitDisabledError,
    JitError,
    OverrideInvalidError,
    RequestError,
    StoreError,
    StoreUnwritableError,
    ToolchainNotFoundError,
)
from mlc_jit.locations import NO_HOME, Locations, locate

if TYPE_CHECKING:
    from mlc_jit.interrupt import Interrupt

logger = logging.getLogger("mlc_jit")

CONFIG_NAME = "mlc-chat-config.json"
MAX_CONFIG_BYTES = 512 << 10
TRIES = 5
"""How often a request is sent again when its daemon ends or is replaced meanwhile."""

_POLICIES: dict[str, m.Policy] = {policy: policy for policy in get_args(m.Policy)}
_TOOLCHAINS: dict[str, m.ToolchainChoice] = {choice: choice for choice in get_args(m.ToolchainChoice)}

SWITCHED_OFF = frozenset({"off", "0", "false", "no"})

BUSY_SECONDS = 600.0
"""How long a client waits for a place in a full queue; it is told no longer than that to come again."""

PASSING = frozenset({"queue-full", "client-full", "user-full", "prewarm-full"})
"""Why a queue took no job now, and may take it in a moment."""

OnProgress = Callable[[m.Progress], None]


@dataclass
class JITResult:
    """What ``jit()`` gives back; the same two fields, in the same order, as upstream's class of this name."""

    model_lib_path: str
    system_lib_prefix: str | None = None


def jit(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None = None,
    *,
    skip_log_jit_policy: bool = False,
    on_progress: OnProgress | None = None,
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

    Returns:
        The library's absolute path and the prefix. The file is never changed or replaced in place.

    Raises:
        ConfigNotFoundError: No config there; a ``FileNotFoundError``.
        RequestError: Something in the request is wrong; the message names it.
        JitDisabledError: The policy is OFF.
        NotCachedError: The policy is READONLY and there is no usable entry.
        CompileError: The compiler failed.
        JitError: Anything else; all of these are ``RuntimeError``.
    """
    if os.environ.get("MLC_JITD", "").lower() in SWITCHED_OFF:
        done = fallback.upstream(
            Path(model_path), dict(overrides or {}), device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy
        )
        return JITResult(*done)
    policy = jit_policy()
    if not skip_log_jit_policy:
        logger.info("MLC_JIT_POLICY = %s. Can be one of: ON, OFF, REDO, READONLY", policy)
    request = make_request(model_path, overrides, device, system_lib_prefix, policy=policy)
    if on_progress is None and _on_terminal():
        answer = _ask_on_terminal(request)
    else:
        answer = ask(request, on_progress=on_progress)
    logger.info("Using %s model lib: %s", "cached" if answer.source == "hit" else "compiled", answer.path)
    return JITResult(answer.path, answer.system_lib_prefix)


def _on_terminal() -> bool:
    """Whether somebody watches standard error, whatever a caller has put in its place."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, OSError, ValueError):
        return False


def _ask_on_terminal(request: m.JitRequest) -> m.Result:
    """Ask with a progress line; nothing is drawn for a hit."""
    from mlc_jit.progress import ProgressLine  # noqa: PLC0415 - only where somebody watches

    with ProgressLine(os.path.basename(request.model_path)) as line:  # noqa: PTH119 - on the hit path
        return ask(request, on_progress=line)


async def ajit(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None = None,
    *,
    skip_log_jit_policy: bool = False,
) -> JITResult:
    """``jit()`` for a running event loop, which it does not block: each call waits in a thread of its own.

    Cancelling the task ends the wait; a compile that has begun goes on, as when a client leaves.
    """
    import asyncio  # noqa: PLC0415 - as long to import as all the rest, and the caller has it already
    from threading import Thread  # noqa: PLC0415

    from mlc_jit.interrupt import Interrupt  # noqa: PLC0415

    if os.environ.get("MLC_JITD", "").lower() in SWITCHED_OFF:
        call = functools.partial(
            jit, model_path, overrides, device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy
        )
        return await asyncio.get_running_loop().run_in_executor(None, call)
    policy = jit_policy()
    if not skip_log_jit_policy:
        logger.info("MLC_JIT_POLICY = %s. Can be one of: ON, OFF, REDO, READONLY", policy)
    request = make_request(model_path, overrides, device, system_lib_prefix, policy=policy)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[m.Result] = loop.create_future()
    interrupt = Interrupt()

    def wait() -> None:
        try:
            settle = functools.partial(_settle, answered, answer=ask(request, interrupt=interrupt))
        except BaseException as error:  # noqa: BLE001 - it is the task's
            settle = functools.partial(_settle, answered, error=error)
        interrupt.close()
        with contextlib.suppress(RuntimeError):  # the loop was closed over it
            loop.call_soon_threadsafe(settle)

    Thread(target=wait, name="ajit", daemon=True).start()
    try:
        answer = await answered
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):  # it has ended just now
            interrupt.set()
        raise
    return JITResult(answer.path, answer.system_lib_prefix)


def _settle(answered: Any, *, answer: m.Result | None = None, error: BaseException | None = None) -> None:
    """Give a future what its thread came to; in the loop's thread."""
    if answered.cancelled():
        return
    if error is None:
        answered.set_result(answer)
    else:
        answered.set_exception(error if isinstance(error, Exception) else JitError("The wait was interrupted."))


def jit_policy() -> m.Policy:
    """The policy that ``MLC_JIT_POLICY`` asks for now.

    Raises:
        RequestError: It is none of the four.
    """
    text = os.environ.get("MLC_JIT_POLICY", "ON")
    policy = _POLICIES.get(text)
    if policy is not None:
        return policy
    raise RequestError(
        f"MLC_JIT_POLICY={text!r} is none of ON, OFF, REDO, READONLY.", remedy="Correct or unset MLC_JIT_POLICY."
    )


def make_request(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    policy: m.Policy,
    prewarm: bool = False,
) -> m.JitRequest:
    """One request with everything that the daemon needs; reads the config, checks what needs no compiler.

    Raises:
        JitDisabledError: The policy is OFF; before anything is read, as upstream.
        RequestError: The path, an override or the device is unusable.
        ToolchainNotFoundError: This process does not know its own interpreter.
    """
    if policy == "OFF":
        raise JitDisabledError(
            "JIT is disabled by MLC_JIT_POLICY=OFF.", remedy="Set MLC_JIT_POLICY to ON, or pass a model_lib."
        )
    folder = Path(model_path).absolute()
    given = dict(overrides or {})
    opt = given.pop("opt", None)
    if opt is not None and not isinstance(opt, str):
        raise OverrideInvalidError(f"opt must be text such as O2, not {opt!r}.")
    if system_lib_prefix is not None and not isinstance(system_lib_prefix, str):
        raise OverrideInvalidError(f"system_lib_prefix must be text, not {system_lib_prefix!r}.")
    if opt == "":
        opt = "flashinfer=1"  # what upstream makes of empty flags; on the wire, empty is "not given"
    return m.JitRequest(
        config=read_config(folder),
        model_path=os.fspath(folder),
        overrides={name: _plain(name, value) for name, value in given.items() if value is not None},
        opt=opt or "",
        device=device_text(device),
        system_lib_prefix=system_lib_prefix,
        policy=policy,
        python=_interpreter(),
        toolchain=_toolchain(),
        environment=variables.own(),
        prewarm=prewarm,
        acceleration="off" if os.environ.get("MLC_JITD_ACCELERATION", "").strip().lower() == "off" else "",
    )


def ask(
    request: m.JitRequest,
    *,
    on_progress: OnProgress | None = None,
    cancel_alone: bool = False,
    interrupt: Interrupt | None = None,
) -> m.Result:
    """Send a request to the daemon, starting one if need be, or do without.

    Args:
        request: Its ``id`` and ``progress`` are set here.
        on_progress: Told how far it is.
        cancel_alone: When this wait is interrupted, end a compile that nobody else waits for.
        interrupt: Ends the wait from another thread.

    Raises:
        KeyboardInterrupt: ``interrupt`` was set.
        JitError: No library; never just because of the daemon, as long as the work can be done without one.
    """
    if on_progress is not None:
        request = dataclasses.replace(request, progress=True)
    tell = on_progress or _ignore
    try:
        places = locate()
        return _ask_until_room(places, request, tell, cancel_alone=cancel_alone, interrupt=interrupt)
    except BusyError:
        raise  # to go on without the daemon would be to jump its queue
    except (DaemonError, StoreUnwritableError) as error:
        if isinstance(error, StoreUnwritableError) and (error.key or error.reason == NO_HOME):
            raise  # the cache can't be written, by nobody
        trouble: JitError = error
    except JitError as error:
        if error.reason != "internal":
            raise
        trouble = error  # the daemon's own fault is no reason to have no library
    fallback.warn_once(trouble)
    try:
        return fallback.once(request, tell, interrupt)
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


def _ask_until_room(
    places: Locations, request: m.JitRequest, tell: OnProgress, *, cancel_alone: bool, interrupt: Interrupt | None
) -> m.Result:
    """``_ask_daemon``, again and again while its queue is full."""
    begun = time.monotonic()
    pause = 0.5
    while True:
        try:
            return _visible(_ask_daemon(places, request, tell, cancel_alone=cancel_alone, interrupt=interrupt), places)
        except BusyError as error:
            waited = time.monotonic() - begun
            if error.reason not in PASSING or waited + pause > BUSY_SECONDS:
                raise
            tell(m.Progress(stage="busy", detail=error.message, elapsed=waited))
        time.sleep(pause)
        if interrupt is not None:
            interrupt.check()
        pause = min(pause * 1.5, 5.0)


def _visible(answer: m.Result, places: Locations) -> m.Result:
    """The answer with a path that this process can see: its mounts may not be the daemon's.

    Raises:
        StoreError: It can see none.
    """
    if os.path.exists(answer.path):  # noqa: PTH110 - on the hit path
        return answer
    here = places.home / "model_lib" / Path(answer.path).name
    if here.exists():
        return dataclasses.replace(answer, path=os.fspath(here))
    raise StoreError(
        f"The daemon's library {answer.path} can't be seen from this process, nor {here}.",
        remedy=f"Mount the daemon's cache home at {places.home} here too, or set MLC_LLM_HOME to where it is mounted.",
        key=answer.key,
    )


def _ask_daemon(
    places: Locations, request: m.JitRequest, tell: OnProgress, *, cancel_alone: bool, interrupt: Interrupt | None
) -> m.Result:
    """One request through the daemon; a daemon that goes away meanwhile is replaced and asked again."""
    trouble: DaemonError = DaemonUnavailableError("No daemon was asked.")
    for attempt in range(TRIES):
        channel = wire.current(places.socket)
        if channel is None:
            from mlc_jit import autostart  # noqa: PLC0415 - subprocess and filelock: not for a hit

            autostart.ensure(places)
            channel = wire.connect(places.socket)
        id_ = channel.next_id()
        try:
            return _converse(channel, dataclasses.replace(request, id=id_), tell, interrupt)
        except DrainingError as error:
            wire.forget()
            trouble = error
            time.sleep(0.05 * 2**attempt)
        except DaemonUnavailableError as error:
            wire.forget()
            if error.reason != "gone":
                raise
            trouble = error
        except JitError:
            raise
        except BaseException:
            # Ctrl-C, or on_progress raised: nobody hears this request's answer any more.
            channel.send(m.Leave(id=id_, cancel=cancel_alone))
            if cancel_alone:
                channel.settle()  # the process is about to end, and an unsent word ends with it
            raise
    raise trouble


def _converse(channel: wire.Channel, request: m.JitRequest, tell: OnProgress, interrupt: Interrupt | None) -> m.Result:
    """Send a request and hear it out."""
    channel.send(request)
    for reply in channel.replies(request.id, silence=silence_seconds(), remind=request, interrupt=interrupt):
        if type(reply) is m.Result:
            return reply
        if type(reply) is m.Progress:
            tell(reply)
        elif type(reply) is m.Failure:
            raise reply.error()
        elif type(reply) is m.Unsupported:
            break
    raise DaemonUnavailableError("The daemon does not know `jit`: it is another version's.", reason="unsupported")


def silence_seconds() -> float:
    """Seconds of silence after which a daemon is given up: ``MLC_JITD_DAEMON_SILENCE_SECONDS``, else 10."""
    text = os.environ.get("MLC_JITD_DAEMON_SILENCE_SECONDS", "")
    try:
        return max(0.1, float(text)) if text else m.SILENCE_SECONDS
    except ValueError:
        raise RequestError(
            f"MLC_JITD_DAEMON_SILENCE_SECONDS={text!r} is no number.", remedy="Correct or unset it."
        ) from None


def read_config(folder: Path) -> bytes:
    """The bytes of a model's config.

    Raises:
        ConfigNotFoundError: There is none, or it can't be read.
        ConfigInvalidError: It is no config by its size.
    """
    path = folder / CONFIG_NAME
    try:
        payload = path.read_bytes()
    except OSError as error:
        if folder.is_file():
            message = f"{folder} is a file; the model path must be a folder that holds {CONFIG_NAME}."
        elif not folder.exists():
            message = f"The model folder {folder} does not exist."
        else:
            message = f"{path} can't be read: {error.strerror}."
        raise ConfigNotFoundError(
            message, remedy="Pass the folder of a model in MLC's format (`mlc_llm gen_config` makes its config)."
        ) from error
    if len(payload) > MAX_CONFIG_BYTES:
        raise ConfigInvalidError(
            f"{path} has {len(payload)} bytes; a config has a few thousand.",
            remedy="Make it anew with `mlc_llm gen_config`.",
        )
    return payload


def device_text(device: Any) -> str:
    """Text for a device: itself, or ``kind:index`` for a tvm ``Device``, without importing tvm.

    Raises:
        DeviceInvalidError: It is neither.
    """
    if isinstance(device, str):
        return device
    names = getattr(type(device), "_DEVICE_TYPE_TO_NAME", None)
    kind = getattr(device, "dlpack_device_type", None)
    if names is not None and kind is not None:
        return f"{names[kind()]}:{device.index}"
    raise DeviceInvalidError(
        f"The device must be text such as 'cuda:0' or a tvm Device, not {type(device).__name__} {device!r}."
    )


def _plain(name: str, value: Any) -> int | float | bool | str:
    if isinstance(value, (bool, int, float, str)):
        return value
    try:
        return operator.index(value)  # numpy's integers
    except TypeError:
        raise OverrideInvalidError(f"The override {name} must be a number, not {value!r}.") from None


def _interpreter() -> str:
    python = os.environ.get("MLC_JITD_PYTHON") or sys.executable
    if not python:
        raise ToolchainNotFoundError(
            "This process does not know its own Python interpreter (it is embedded).",
            remedy="Set MLC_JITD_PYTHON to one that has mlc_llm.",
        )
    return python


def _toolchain() -> m.ToolchainChoice:
    text = os.environ.get("MLC_JITD_TOOLCHAIN") or "auto"
    choice = _TOOLCHAINS.get(text)
    if choice is not None:
        return choice
    raise RequestError(
        f"MLC_JITD_TOOLCHAIN={text!r} is none of auto, mlc_llm, tvm.", remedy="Correct or unset MLC_JITD_TOOLCHAIN."
    )


def _ignore(_progress: m.Progress) -> None:
    return
