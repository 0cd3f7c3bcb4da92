"""The records of copies under upstream's names: ``.upstream/<md5>.json`` says that one is ours, and of which entry."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mlc_jitd.store.files import DamagedError, ForeignError, read, write_durably
from mlc_jitd.store.layout import SUFFIXES
from mlc_jitd.store.marks import Mark  # noqa: TC001 - decoding reads the annotations

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
MAX_RECORD_BYTES = 64 << 10

NAME = re.compile(rf"([0-9a-f]{{32}})\.({'|'.join(sorted(SUFFIXES))})", re.ASCII)
"""A file name that upstream's jit() gives to a library."""

_RECORD = re.compile(r"([0-9a-f]{32})\.json", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of an entry under upstream's name, as its record says it.

    Attributes:
        md5: Upstream's name, without the suffix.
        key: The entry that it is a copy of.
        artifact: File name of the artifact that was copied.
        toolchain: Fingerprint of the toolchain that made it.
        versions: The same for people.
        made: What the file looked like when we made it; two while it is being renewed.
        created: Unix time.
    """

    md5: str
    suffix: str
    key: str
    artifact: str
    sha256: str
    size: int
    toolchain: str
    versions: str = ""
    made: tuple[Mark, ...] = ()
    created: float = 0.0
    format: int = FORMAT

    @property
    def name(self) -> str:
        """The copy's file name in ``model_lib``."""
        return f"{self.md5}.{self.suffix}"


class Records:
    """The records in one folder. Who changes them holds the folder's lock.

    Args:
        folder: ``model_lib/.upstream``; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """The md5 of every record there is. Raises nothing."""
        try:
            return sorted(match[1] for name in os.listdir(self._folder) if (match := _RECORD.fullmatch(name)))  # noqa: PTH208 - a thousand names
        except OSError:
            return []

    def read(self, md5: str) -> Copy | None:
        """What a record says; ``None`` where there is none that can be believed. Raises nothing."""
        try:
            payload, _ = read(self._folder / f"{md5}.json", MAX_RECORD_BYTES)
            copy = msgspec.json.decode(payload, type=Copy)
        except (OSError, DamagedError, ForeignError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if copy.format != FORMAT or copy.md5 != md5 or NAME.fullmatch(copy.name) is None:
            return None
        return copy

    def write(self, copy: Copy) -> None:
        """Write a record, durably.

        Raises:
            OSError: The file system refused; the record is what it was.
        """
        draft = self._folder / ".record"
        draft.unlink(missing_ok=True)
        write_durably(draft, msgspec.json.format(msgspec.json.encode(copy), indent=1) + b"\n", 0o600)
        draft.rename(self._folder / f"{copy.md5}.json")

    def remove(self, md5: str) -> None:
        """Remove a record, if it is there."""
        (self._folder / f"{md5}.json").unlink(missing_ok=True)
