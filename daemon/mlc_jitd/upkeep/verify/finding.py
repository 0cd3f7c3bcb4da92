"""What verification has to say of one thing: a plain value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["damaged", "foreign", "unsafe", "unsealed", "newer", "leftover", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: ``damaged``; ``foreign``: an entry that others decide about, never handed out; ``unsafe``: a folder that
            others may write; ``unsealed``: an artifact that its owner may write; ``newer``: of a later version;
            ``leftover``: what crashes and repairs left, and what takes room; ``layer``: one that is not read.
        level: ``problem``: entries are not handed out, or must not be; ``note``: it works.
        found: What, as a sentence without its stop.
        remedy: What to do, or an empty string.
        key: Whose, or an empty string.
        path: Of the file or folder.
        again: The command that compiles the library again, where the manifest tells.
        repaired: Whether it has just been set aside.
    """

    kind: Kind
    level: Literal["problem", "note"]
    found: str
    remedy: str = ""
    key: str = ""
    path: str = ""
    again: str = ""
    repaired: bool = False
