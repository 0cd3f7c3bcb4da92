"""What the client's own variables say, as one value: the mode, the policy, the interpreter, the time limits.

Read at each call, and worked out once for each state of the environment. docs/variables.md is the table for people.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Literal, get_args

from mlc_jit import environment
from mlc_jit.errors import RequestError, ToolchainNotFoundError
from mlc_jit.messages import frames as m

Mode = Literal["on", "off", "require"]

BUSY_SECONDS = 600.0
"""How long a client waits for a place in a full queue; it is told no longer than that to come again."""

START_SECONDS = 30.0
"""How long a daemon may take to start."""

LEAST_SECONDS = 0.1

_MODES: dict[str, Mode] = {
    "off": "off", "0": "off", "false": "off", "no": "off",
    "require": "require", "required": "require",
}  # fmt: skip
_POLICIES: dict[str, m.Policy] = {policy: policy for policy in get_args(m.Policy)}
_TOOLCHAINS: dict[str, m.ToolchainChoice] = {choice: choice for choice in get_args(m.ToolchainChoice)}


class Settings:
    """What one state of the environment says. A plain class: to make a dataclass takes a fiftieth of a process's hit.

    Attributes:
        mode: The daemon, upstream's own ``jit()`` (then the rest means nothing), or the daemon and nothing else.
        policy: ``MLC_JIT_POLICY``; ``None`` where it is none of the four, which ``jit_policy`` says.
        python: The interpreter whose compiler is wanted.
        toolchain: Which of its compilers.
        environment: The declared variables that reach the compiler.
        acceleration: ``off`` where kernels are not to be compiled apart and reused, else empty.
        silence: Seconds after which a silent daemon is given up.
        busy: Seconds for which a place in a full queue is waited for.
        wait: Seconds that a call may take in all; ``None`` for no limit.
    """

    __slots__ = ("acceleration", "busy", "environment", "mode", "policy", "python", "silence", "toolchain", "wait")

    def __init__(
        self,
        *,
        mode: Mode,
        policy: m.Policy | None = "ON",
        python: str = "",
        toolchain: m.ToolchainChoice = "auto",
        environment: dict[str, str] | None = None,
        acceleration: Literal["", "off"] = "",
        silence: float = m.SILENCE_SECONDS,
        busy: float = BUSY_SECONDS,
        wait: float | None = None,
    ) -> None:
        self.mode = mode
        self.policy = policy
        self.python = python
        self.toolchain = toolchain
        self.environment = environment or {}
        self.acceleration = acceleration
        self.silence = silence
        self.busy = busy
        self.wait = wait


def current() -> Settings:
    """The settings as they are now; the same object while the environment is what it was.

    Raises:
        RequestError: A variable has a value that it can't have.
        ToolchainNotFoundError: This process does not know its own interpreter.
    """
    global _last  # noqa: PLW0603
    state = environment.state()
    last = _last
    if last is None or last[0] is not state or last[1] is not sys.executable:
        last = _last = (state, sys.executable, _read())
    return last[2]


_last: tuple[environment.State, str, Settings] | None = None


def _read() -> Settings:
    if mode() == "off":
        return Settings(mode="off")
    return Settings(
        mode=mode(),
        policy=_POLICIES.get(os.environ.get("MLC_JIT_POLICY", "ON")),
        python=_interpreter(),
        toolchain=_toolchain(),
        environment=environment.own(),
        acceleration="off" if os.environ.get("MLC_JITD_ACCELERATION", "").strip().lower() == "off" else "",
        silence=silence_seconds(),
        busy=_seconds("MLC_JITD_BUSY_SECONDS", BUSY_SECONDS),
        wait=_seconds("MLC_JITD_WAIT_SECONDS", 0.0) or None,
    )


def mode() -> Mode:
    """What ``MLC_JITD`` asks for: the daemon, upstream's own ``jit()``, or the daemon and nothing else."""
    return _MODES.get(os.environ.get("MLC_JITD", "").lower(), "on")


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


def silence_seconds() -> float:
    """Seconds of silence after which a daemon is given up: ``MLC_JITD_DAEMON_SILENCE_SECONDS``, else 10.

    Raises:
        RequestError: It is no number.
    """
    return max(LEAST_SECONDS, _seconds("MLC_JITD_DAEMON_SILENCE_SECONDS", m.SILENCE_SECONDS))


def start_seconds() -> float:
    """Seconds that a daemon may take to start: ``MLC_JITD_START_SECONDS``, else 30.

    Raises:
        RequestError: It is no number.
    """
    return max(LEAST_SECONDS, _seconds("MLC_JITD_START_SECONDS", START_SECONDS))


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        raise RequestError(f"{name}={text!r} is no number.", remedy="Correct or unset it.") from None
    if math.isnan(seconds):
        raise RequestError(f"{name}={text!r} is no number.", remedy="Correct or unset it.")
    return max(0.0, seconds)


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
