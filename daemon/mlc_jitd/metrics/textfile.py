"""Metrics in a file for node_exporter's textfile collector, written anew every few seconds and gone with the daemon."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import write_to_textfile

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

WRITE_SECONDS = 15.0


class Textfile:
    """Writes until it is closed; each time another file is renamed into place.

    Args:
        path: Where; its name ends in ``.prom``.
        registry: What.
    """

    def __init__(self, path: str, registry: CollectorRegistry) -> None:
        self._path = path
        self._registry = registry
        self._failed = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and leave no values behind that nobody keeps up."""
        self._ending.set()
        self._thread.join(2.0)
        with contextlib.suppress(OSError):
            Path(self._path).unlink()

    def _run(self) -> None:
        while True:
            self._write()
            if self._ending.wait(WRITE_SECONDS):
                return

    def _write(self) -> None:
        try:
            write_to_textfile(self._path, self._registry)
        except OSError as error:
            if not self._failed:
                logger.warning("the metrics can't be written to %s: %s", self._path, error.strerror or error)
            self._failed = True
        except Exception:
            logger.exception("the metrics could not be written")
        else:
            self._failed = False
