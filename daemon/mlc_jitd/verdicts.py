"""What a compile's outcome means: nothing, or the error that those who wait for it get. Decides nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlc_jit.errors import (
    CompileCancelledError,
    CompileError,
    CompileKilledError,
    CompileOutOfMemoryError,
    CompileTimedOutError,
    DrainingError,
    JitError,
)

if TYPE_CHECKING:
    from mlc_jitd.build import Outcome
    from mlc_jitd.identity import Identity
    from mlc_jitd.toolchains.base import Toolchain


def require_success(outcome: Outcome, identity: Identity, toolchain: Toolchain) -> None:
    """Raise what a failed outcome means; the sentence says what, the fields say where to read on."""
    if outcome.succeeded:
        return
    cause = toolchain.root_cause(outcome.log_tail)
    shown = f"{identity.toolchain.name} for key {identity.key[:12]}"

    def error(cls: type[CompileError], message: str, remedy: str, reason: str) -> CompileError:
        return cls(
            message,
            remedy=remedy,
            reason=reason,
            key=identity.key,
            log_path=os.fspath(outcome.log_path),
            log_tail=outcome.log_tail,
        )

    match outcome.status:
        case "exited":
            why = cause or f"exit status {outcome.exit_status}, and its log names no cause"
            raise error(CompileError, f"The compile failed: {why}", "", f"exit-{outcome.exit_status}")
        case "signalled":
            why = f" It had said: {cause}" if cause else ""
            raise error(
                CompileKilledError,
                f"The compiler ({shown}) was ended by signal {outcome.signal}.{why}",
                "A crash of the compiler, or somebody's kill; ask again, and see its log if it comes back.",
                f"signal-{outcome.signal}",
            )
        case "timed-out" | "silent":
            what = "ran for longer than it may" if outcome.status == "timed-out" else "said nothing for too long"
            raise error(
                CompileTimedOutError,
                f"The compiler ({shown}) {what} and was ended after {outcome.seconds:.0f} s.",
                "Raise MLC_JITD_COMPILE_SECONDS or MLC_JITD_SILENCE_SECONDS for the daemon if it was only slow.",
                outcome.status,
            )
        case "out-of-memory":
            raise error(
                CompileOutOfMemoryError,
                f"The compiler ({shown}) ran out of memory at {outcome.peak_memory / 2**20:.0f} MiB. {outcome.detail}",
                "Free memory on the host, or raise the limit that it ran under.",
                "out-of-memory",
            )
        case "cancelled":
            raise stopped(outcome.detail if outcome.detail == "draining" else "", identity.key)
        case _:
            raise error(
                CompileKilledError,
                f"The compiler ({shown}) was lost: {outcome.detail or 'its supervisor ended'}.",
                "Ask again.",
                "lost",
            )


def stopped(reason: str, key: str) -> JitError:
    """The error of a compile that was ended on purpose: ``draining``, or anything else for a cancel."""
    if reason == "draining":
        return DrainingError("The daemon was stopped while it compiled this.", remedy="Ask again.", key=key)
    return CompileCancelledError("The compile was cancelled.", remedy="Ask again to compile it.", key=key)
