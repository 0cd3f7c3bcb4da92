"""The lines on stderr that the daemon reads: one per stage, and at most one error at the end."""

from __future__ import annotations

import sys
from typing import Literal

Stage = Literal["load", "model", "graph", "lower", "schedule", "bytecode", "codegen", "link", "done"]


def stage(name: Stage, detail: str) -> None:
    """Say that a stage begins, or that all is done."""
    _line(f"stage: {name} {detail}")


def note(text: str) -> None:
    """Say something that a person may want to know and that is no stage."""
    _line(f"note: {text}")


def error(sentence: str) -> None:
    """Say why nothing was made; the last line of the output."""
    _line(f"error: {sentence}")


def _line(text: str) -> None:
    print("mlc-jitd " + " ".join(text.split()), file=sys.stderr, flush=True)
