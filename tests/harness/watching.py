"""Folders whose config changes under a daemon that watches them, and who is told."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any

from harness.daemons import status
from harness.leftovers import LIMIT, until
from mlc_jit import watching

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from harness.daemons import Daemon
    from mlc_jit import messages as m

CONFIG = "mlc-chat-config.json"


class Listener:
    """Hears a daemon's events in a thread of its own; use it with ``with``, at whose end the daemon is ended."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.events: list[m.Event] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.events, what="the first event")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.process.send_signal(signal.SIGCONT)
        assert self._daemon.stop() == 0
        self._thread.join(5.0)
        assert self.words()[-1] == "ended" or kind is not None

    def _run(self) -> None:
        for event in watching.watch():
            self.events.append(event)

    def words(self) -> list[str]:
        """What happened, in order."""
        return [event.what for event in self.events]

    def wait(self, word: str, count: int = 1, *, limit: float = LIMIT) -> m.Event:
        """Wait until something happened so often; the last such event."""
        until(lambda: self.words().count(word) >= count, limit, what=f"{word} in {self.words()}")
        return [event for event in self.events if event.what == word][count - 1]


def folder(path: Path) -> m.FolderReport | None:
    """What the daemon says of a folder."""
    return next((each for each in status().folders if each.path == str(path)), None)


def watched(path: Path) -> str:
    """How the daemon watches a folder."""
    found = folder(path)
    return found.watched if found else ""


def settle(path: Path, manner: str = "events") -> None:
    """Wait until the daemon watches a folder like that."""
    until(lambda: watched(path) == manner, what=f"{path} to be watched by {manner}: {folder(path)}")


def edit(path: Path, **fields: Any) -> bytes:
    """Change the config of a model folder in place; its bytes."""
    config = path / CONFIG
    payload = json.dumps({**json.loads(config.read_bytes()), **fields}).encode()
    config.write_bytes(payload)
    return payload
