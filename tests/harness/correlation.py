"""Finds crossed answers: who asked for what and got what, noted by every thread of every process in one file.

The compiler's double writes what it was asked into the library it makes. So a library tells which question it answers,
and whoever got it can be asked whether that was theirs.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

NOTE = """
import os as _os
_notes = _os.open(given["notes"], _os.O_WRONLY | _os.O_APPEND | _os.O_CREAT)
def note(who, asked, got):
    _os.write(_notes, (json.dumps([who, asked, got]) + chr(10)).encode())
"""
"""For a client's code: ``note(who, asked, got)``. One write of one line, so that no two mix."""


@dataclass(slots=True)
class Correlation:
    """The notes of one test.

    Attributes:
        notes: The file; pass it to clients as ``notes``.
    """

    notes: Path

    def check(self, *, answers: int, askers: int) -> None:
        """Everybody got what they asked for, each question has one library, and nobody's answer is missing.

        Args:
            answers: How many there must be.
            askers: How many there must be.
        """
        notes = [json.loads(line) for line in self.notes.read_text().splitlines()]
        crossed = [(who, asked, got) for who, asked, got in notes if question_of(got) != asked]
        assert not crossed, f"crossed answers: {crossed[:5]}"
        libraries: dict[int, set[str]] = defaultdict(set)
        for _, asked, got in notes:
            libraries[asked].add(got)
        assert all(len(paths) == 1 for paths in libraries.values()), libraries
        assert len(notes) == answers
        shares = Counter(who for who, _, _ in notes)
        assert len(shares) == askers
        assert len(set(shares.values())) == 1, f"not everybody got the same number: {shares}"


_asked: dict[str, int] = {}


def question_of(path: str) -> int:
    """The ``max_batch_size`` for which a library was made."""
    if path not in _asked:
        facts = json.loads(Path(path).read_bytes().splitlines()[-1])
        found = [
            piece.partition("=")[2] for piece in facts["overrides"].split(";") if piece.startswith("max_batch_size=")
        ]
        _asked[path] = int(found[0])
    return _asked[path]


def new(folder: Path) -> Correlation:
    """Notes in a folder."""
    return Correlation(folder / f"notes-{os.getpid()}")
