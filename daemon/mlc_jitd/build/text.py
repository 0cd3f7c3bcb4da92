"""Output of programs made fit to read: no colours, no control characters, no overwritten progress."""

from __future__ import annotations

import re

__all__ = ["LONGEST_LINE", "clean_line", "clean_text"]

LONGEST_LINE = 2_000
"""Characters of a line that are passed on."""

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS and their like: titles, links
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?=[^\n\r])")


def clean_line(line: str) -> str:
    """One line without escapes and control characters, at most 2,000 characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", line))[:LONGEST_LINE].rstrip()


def clean_text(text: str) -> str:
    """Several lines without escapes and control characters; of a progress bar only its last state stays."""
    return _CONTROLS.sub("", _OVERWRITTEN.sub("", _ESCAPES.sub("", text)))
