"""Signals are heard by a main thread that waits for as long as it likes.

Python runs a handler in the main thread, when that thread next comes by. One that waits on a queue is woken by a signal
that the kernel gives to it, but not by one that comes just before it begins to wait, or that another thread gets.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Signals:
    """A context manager, for the main thread: any signal with a handler of ours also wakes it.

    Args:
        wake: Gives the main thread something to do; called in a thread that waits for nothing else.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _run(self) -> None:
        while os.read(self._read, 4096):
            self._wake()
