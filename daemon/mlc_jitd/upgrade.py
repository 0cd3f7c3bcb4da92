"""Notices that what this daemon runs from was replaced on disk: its own package, or its Python.

A daemon of the old code would go on for ever, and import a mixture as soon as it needs a module that it has not loaded.
What does not belong here: what follows (``life`` has the daemon drain, and the next request starts the new one).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("mlc_jit", "mlc_jitd")
SETTLED = 2
"""How many looks in a row must see the same: an installer that is at work leaves nothing to start a daemon from."""

Stamp = tuple[str, tuple[int, int, int, int] | None]


class Installation:
    """What this process was started from, as it was then.

    Args:
        files: What to look at.
        interpreter: Followed through links: a virtual environment that was made anew leads elsewhere.
    """

    def __init__(self, files: Iterable[Path], interpreter: Path) -> None:
        self._files = tuple(dict.fromkeys(files))
        self._interpreter = interpreter
        self._began = self._last = self._look()
        self._same = 0

    @classmethod
    def own(cls) -> Installation:
        """This process's: the modules of ours that are loaded, the interpreter, and the standard library's ``os``."""
        ours = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES]
        files = [Path(module.__file__) for module in ours if module.__file__]
        return cls([*files, Path(os.__file__)], Path(sys.executable))

    def replaced(self) -> str:
        """Why a new daemon should take over, for people; empty while nothing has changed or an installer is at work."""
        now = self._look()
        self._same = self._same + 1 if now == self._last else 0
        self._last = now
        if now == self._began or self._same < SETTLED - 1:
            return ""
        was = dict(self._began)
        changed = [name for name, stamp in now if was.get(name, ...) != stamp]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more} changed" if changed else "files have changed"

    def _look(self) -> tuple[Stamp, ...]:
        real = os.path.realpath(self._interpreter)
        return tuple(_stamp(path) for path in (*self._files, Path(real)))


def _stamp(path: Path) -> Stamp:
    try:
        about = path.stat()
    except OSError:
        return str(path), None
    return str(path), (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
