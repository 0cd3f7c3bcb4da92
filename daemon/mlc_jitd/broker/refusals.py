"""What the broker says when it says no."""

from __future__ import annotations

from dataclasses import replace

from .instructions import Trouble


def disabled() -> Trouble:
    """The policy OFF, as upstream."""
    return Trouble(
        "disabled", "JIT is disabled by MLC_JIT_POLICY=OFF.", "Set MLC_JIT_POLICY to ON, or pass a model_lib."
    )


def not_cached(reason: str, detail: str = "") -> Trouble:
    """READONLY without a usable entry; ``detail`` says why, where that is known."""
    why = {
        "absent": "no library for this configuration is in the cache",
        "damaged": "the cached library for this configuration was damaged and has been set aside",
        "foreign": "the cached library for this configuration belongs to, or can be changed by, another user",
    }.get(reason, reason)
    return Trouble(
        "not-cached",
        f"No cached model lib found ({why}{': ' if detail else ''}{detail}), and compiling is disabled by "
        "MLC_JIT_POLICY=READONLY.",
        "Compile it once with MLC_JIT_POLICY=ON (`mlc-jit compile MODEL`), or pass a model_lib.",
        reason,
    )


def draining() -> Trouble:
    """The daemon is going away."""
    return Trouble("draining", "The mlc-jitd daemon is stopping and starts no new compile.", "Ask again.")


def cancelled() -> Trouble:
    """Cancelled while queued."""
    return Trouble("compile-cancelled", "The compile was cancelled before it started.", "Ask again to compile it.")


def remembered(trouble: Trouble, left: float) -> Trouble:
    """The failure of a moment ago, ``left`` seconds before it is forgotten."""
    again = f"This failed a moment ago; it will be tried again in {max(left, 0.1):.1f} s, or at once with policy REDO."
    return replace(trouble, remedy=f"{trouble.remedy} {again}".strip())
