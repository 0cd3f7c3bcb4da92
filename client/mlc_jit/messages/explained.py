"""Why a request is a hit or none: the question, and what its answer is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlc_jit.messages.base import Message, Shown
from mlc_jit.messages.core import JitRequest  # noqa: TC001 - decoding reads the annotations


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explain(Message):
    """Ask what a request would come to, and why; its own ``id`` and policy don't count. Nothing is compiled."""

    verb: ClassVar[str] = "explain"
    request: JitRequest


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PartReport(Shown):
    """One part of a key: its hash, and its value for people."""

    name: str
    sha256: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DifferenceReport(Shown):
    """One thing that differs between a known entry and what is asked.

    Attributes:
        part: Of the key.
        field: Where in it, with dots; empty for the whole part.
        there: The entry's value as JSON, empty where it has none; of a long one the beginning.
        here: What is asked for, likewise.
        words: For people.
    """

    part: str
    field: str = ""
    there: str = ""
    here: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NearReport(Shown):
    """An entry that is near to what is asked. ``created`` is a Unix time."""

    key: str
    model: str
    toolchain: str
    created: float
    differences: tuple[DifferenceReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class UpstreamReport(Shown):
    """Where upstream's own ``jit()`` would look for what is asked.

    Attributes:
        device: The device text that gives this name.
        file: File name in ``model_lib``.
        holds: ``nothing``, ``entry`` (a copy of the entry that is asked for), ``other-entry`` (a copy of another one),
            ``unknown`` (a file that mlc-jitd did not make).
    """

    device: str
    file: str
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explained(Message):
    """Answer to ``Explain``.

    Attributes:
        hit: Whether there is a library for the key.
        path: It, for a hit.
        reason: Why it is none: ``absent``, ``damaged``, ``foreign``; empty for a hit.
        words: The same as a sentence without its stop.
        remedy: What to do about it, where there is something.
        parts: What the key is made of.
        compared: How many other entries were compared.
        nearest: Nearest first.
        upstream: Empty for a toolchain that upstream does not know, and where its hash could not be had.
    """

    verb: ClassVar[str] = "explained"
    key: str
    hit: bool
    path: str = ""
    reason: str = ""
    words: str = ""
    remedy: str = ""
    parts: tuple[PartReport, ...] = ()
    compared: int = 0
    nearest: tuple[NearReport, ...] = ()
    upstream: tuple[UpstreamReport, ...] = ()
