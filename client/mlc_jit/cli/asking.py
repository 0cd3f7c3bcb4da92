"""What the verbs share that ask a running daemon: one question, one typed answer, and how figures are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from mlc_jit import messages as m
from mlc_jit.api import silence_seconds
from mlc_jit.channel import query
from mlc_jit.errors import ProtocolError
from mlc_jit.figures import duration, size
from mlc_jit.locations import locate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["answer", "duration", "shortened", "size", "table"]

R = TypeVar("R", bound=m.Message)


def answer(message: Callable[[int], m.Message], kind: type[R], *, silence: float | None = None) -> R:
    """The daemon's one answer to a question; starts no daemon.

    Args:
        message: Makes the question for an id.
        kind: Of the answer.
        silence: Seconds without a word after which the daemon is given up; the client's setting by default.

    Raises:
        DaemonUnavailableError: None is running, or it does not answer.
        ProtocolError: It does not know the question.
    """
    for reply in query(locate().socket, message, silence=silence_seconds() if silence is None else silence):
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, m.Unsupported):
            raise ProtocolError(
                f"The running daemon does not know `{reply.asked}`: it is another version's.",
                remedy="`mlc-jit stop` ends it; the next request starts this version's.",
            )
    raise ProtocolError("The daemon's answer was of another kind.")


def shortened(text: str) -> str:
    """A text with its digests cut to what people can compare."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", text)


def table(rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as their widest cell; those named in ``right`` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells: list[Any] = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
