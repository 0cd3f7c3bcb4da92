"""What the verbs share that ask a running daemon: one question, one typed answer, and how figures are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mlc_jit import messages as m
from mlc_jit.api import silence_seconds
from mlc_jit.channel import query
from mlc_jit.errors import ProtocolError
from mlc_jit.locations import locate

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R", bound=m.Message)


def answer(message: Callable[[int], m.Message], kind: type[R]) -> R:
    """The daemon's one answer to a question; starts no daemon.

    Raises:
        DaemonUnavailableError: None is running, or it does not answer.
        ProtocolError: It does not know the question.
    """
    for reply in query(locate().socket, message, silence=silence_seconds()):
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, m.Unsupported):
            raise ProtocolError(
                f"The running daemon does not know `{reply.asked}`: it is another version's.",
                remedy="`mlc-jit stop` ends it; the next request starts this version's.",
            )
    raise ProtocolError("The daemon's answer was of another kind.")


def size(count: float) -> str:
    """Bytes for people: ``3.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - a thousand is what k means
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``5 d 3 h``."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"  # noqa: PLR2004 - where tenths begin to be noise
    small, a, large, b = next(unit for unit in _UNITS if whole < unit[2] * unit[4] or unit is _UNITS[-1])[:4]
    rest = whole % large // small
    return f"{whole // large} {b} {rest} {a}" if rest else f"{whole // large} {b}"


_UNITS = ((1, "s", 60, "min", 60), (60, "min", 3600, "h", 24), (3600, "h", 86400, "d", 0))
"""Seconds and name of a small and a large unit, and how many of the large one make the next."""


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
