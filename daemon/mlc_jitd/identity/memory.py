"""What was once found out and stays true: small JSON files, each named by the digest of its question.

A file that is missing, torn or of another format is an answer not known; a folder that can't be written, or that others
may write, is no memory.
Nothing here is needed for a right answer. What does not belong here: what the questions mean.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from mlc_jitd.identity.canonical import digest

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_FORMAT = 1
MAX_FILES = 1024


class Memory:
    """A folder of remembered answers; safe for several threads and processes.

    Args:
        folder: Made when first written to, readable by its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, kind: str, question: Any) -> Any | None:
        """The remembered answer, or ``None``."""
        name = digest([MEMORY_FORMAT, kind, question])
        try:
            if not self._is_ours():
                return None
            held = json.loads((self._folder / f"{kind}-{name}.json").read_bytes())
            return held["answer"] if held["name"] == name else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def put(self, kind: str, question: Any, answer: Any) -> None:
        """Remember an answer, whole or not at all; nothing is raised where that fails."""
        name = digest([MEMORY_FORMAT, kind, question])
        path = self._folder / f"{kind}-{name}.json"
        torn = self._folder / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            torn.write_text(json.dumps({"name": name, "kind": kind, "question": question, "answer": answer}))
            torn.replace(path)
            self._bound()
        except OSError:
            with contextlib.suppress(OSError):
                torn.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Whether nobody but this user and root could have written what is there."""
        found = self._folder.stat()
        return found.st_uid in {os.geteuid(), 0} and not found.st_mode & 0o022

    def _bound(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MAX_FILES]:
            path.unlink(missing_ok=True)
