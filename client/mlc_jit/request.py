"""From the arguments of a call to one request, ready to be sent: what needs no compiler is checked here.

A program asks the same things again and again (one model for each worker, a retry, a reload), so a request is kept
with its bytes. It is used again only for equal arguments, an unchanged environment and an equal config: that file is
read at each call, never trusted to be what it was.
"""

from __future__ import annotations

import operator
import os
from typing import TYPE_CHECKING, Any, cast

from mlc_jit import messages as m
from mlc_jit import settings
from mlc_jit.errors import (
    ConfigInvalidError,
    ConfigNotFoundError,
    DeviceInvalidError,
    JitDisabledError,
    OverrideInvalidError,
    RequestError,
)
from mlc_jit.messages.frames import MAX_MESSAGE_BYTES, Policy, cut, pack, paste

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_NAME = "mlc-chat-config.json"
MAX_CONFIG_BYTES = 512 << 10
READ_BYTES = 64 << 10
"""More than a config has: one read gets it all."""

KEPT = 64
"""Requests kept, at some 10 KB each."""

_PLAIN = frozenset({int, float, bool, str, type(None)})


class Question:
    """A request as its bytes, but for the id.

    Attributes:
        silence: Seconds after which a silent daemon is given up.
        config: The config that it asks about.
    """

    __slots__ = ("_request", "after", "before", "config", "silence")

    def __init__(self, frame: bytes, config: bytes, silence: float, request: m.JitRequest | None = None) -> None:
        if len(frame) > MAX_MESSAGE_BYTES:
            raise RequestError(
                f"The request has {len(frame)} bytes; a daemon takes {MAX_MESSAGE_BYTES}.",
                remedy="Look for very long environment variables or overrides.",
            )
        parts = cut(frame)
        assert parts is not None, "verb and id come first"
        self.before, _, self.after = parts
        self.config = config
        self.silence = silence
        self._request = request

    @classmethod
    def of(cls, request: m.JitRequest) -> Question:
        """A question that asks a request.

        Raises:
            RequestError: It is too long for a message.
        """
        return cls(m.encode(request), request.config, settings.silence_seconds(), request)

    @property
    def request(self) -> m.JitRequest:
        """What is asked; its ``id`` means nothing. Made when it is first wanted, which for a hit is never."""
        if self._request is None:
            self._request = _typed(self.frame(0))
        return self._request

    def frame(self, id_: int) -> bytes:
        """The bytes to send."""
        return paste(self.before, id_, self.after)


_kept: dict[tuple[Any, ...], tuple[settings.Settings, Question]] = {}


def question(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    progress: bool = False,
) -> Question:
    """The question that a call asks, with the policy of the environment.

    Raises:
        JitError: As ``make_request``.
    """
    now = settings.current()
    policy = now.policy or settings.jit_policy()
    given = exactly(overrides)
    if given is None or policy == "OFF" or type(system_lib_prefix) not in _PLAIN:
        fields = _fields(model_path, overrides, device, system_lib_prefix, policy=policy, progress=progress)
        return Question(pack(fields), fields["config"], now.silence)
    if type(device) is not str:
        device = device_text(device)
    path = _absolute(model_path)
    asked = (path, device, system_lib_prefix, progress, given)
    kept = _kept.get(asked)
    if kept is not None and kept[0] is now and kept[1].config == quick_config(path):
        return kept[1]
    fields = _fields(path, overrides, device, system_lib_prefix, policy=policy, progress=progress)
    made = Question(pack(fields), fields["config"], now.silence)
    if len(_kept) >= KEPT:
        _kept.clear()
    _kept[asked] = (now, made)
    return made


def exactly(overrides: Mapping[str, Any] | None) -> str | None:
    """Overrides as a text that only the same ones have; ``None`` where there is no such text."""
    if not overrides:
        return ""
    if type(overrides) is not dict or not all(type(value) in _PLAIN for value in overrides.values()):
        return None
    return repr(overrides)


def _absolute(model_path: Path | str) -> str:
    path = os.fspath(model_path)
    if path.startswith("/") and "//" not in path and "/./" not in path and not path.endswith(("/", "/.")):
        return path
    from pathlib import Path  # noqa: PLC0415 - not for a hit

    return os.fspath(Path(path).absolute())


def quick_config(folder: Path | str) -> bytes | None:
    """A config's bytes, or ``None`` where more has to be said about it."""
    try:
        fd = os.open(f"{folder}/{CONFIG_NAME}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, READ_BYTES)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None


def make_request(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    policy: Policy,
    prewarm: bool = False,
    progress: bool = False,
) -> m.JitRequest:
    """One request with everything that the daemon needs; reads the config, checks what needs no compiler.

    Raises:
        JitDisabledError: The policy is OFF; before anything is read, as upstream.
        RequestError: The path, an override or the device is unusable.
        ToolchainNotFoundError: This process does not know its own interpreter.
    """
    return _typed(
        pack(
            _fields(model_path, overrides, device, system_lib_prefix, policy=policy, prewarm=prewarm, progress=progress)
        )
    )


def _typed(frame: bytes) -> m.JitRequest:
    return cast("m.JitRequest", m.decode(frame, m.REQUESTS, strict=False))


def _fields(
    model_path: Path | str,
    overrides: Mapping[str, Any] | None,
    device: Any,
    system_lib_prefix: str | None,
    *,
    policy: Policy,
    prewarm: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """The fields of ``JitRequest`` as they travel, in their order."""
    if policy == "OFF":
        raise JitDisabledError(
            "JIT is disabled by MLC_JIT_POLICY=OFF.", remedy="Set MLC_JIT_POLICY to ON, or pass a model_lib."
        )
    folder = _absolute(model_path)
    given = dict(overrides or {})
    opt = given.pop("opt", None)
    if opt is not None and not isinstance(opt, str):
        raise OverrideInvalidError(f"opt must be text such as O2, not {opt!r}.")
    if system_lib_prefix is not None and not isinstance(system_lib_prefix, str):
        raise OverrideInvalidError(f"system_lib_prefix must be text, not {system_lib_prefix!r}.")
    if opt == "":
        opt = "flashinfer=1"  # what upstream makes of empty flags; on the wire, empty is "not given"
    now = settings.current()
    fields = {
        "verb": "jit",
        "id": 0,
        "config": read_config(folder),
        "model_path": folder,
        "overrides": {name: _plain(name, value) for name, value in given.items() if value is not None},
        "opt": opt or "",
        "device": device_text(device),
        "system_lib_prefix": system_lib_prefix,
        "policy": policy,
        "python": now.python,
        "toolchain": now.toolchain,
        "environment": now.environment,
        "prewarm": prewarm,
        "progress": progress,
    }
    if now.acceleration:  # it joined the message later: absent where it says nothing
        fields["acceleration"] = now.acceleration
    return fields


def read_config(folder: Path | str) -> bytes:
    """The bytes of a model's config.

    Raises:
        ConfigNotFoundError: There is none, or it can't be read.
        ConfigInvalidError: It is no config by its size.
    """
    path = f"{folder}/{CONFIG_NAME}"
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            payload = file.read()
    except OSError as error:
        if os.path.isfile(folder):  # noqa: PTH113
            message = f"{folder} is a file; the model path must be a folder that holds {CONFIG_NAME}."
        elif not os.path.exists(folder):  # noqa: PTH110
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
