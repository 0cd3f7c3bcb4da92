"""The way to stop a running job, or to have it step back less, from another thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StopReason", "StopSignal"]

StopReason = Literal["cancelled", "draining"]


class StopSignal:
    """Stops one `run()`, before or while it runs. Thread-safe; holds no descriptor, so a queued job may own one.

    The first reason stays. A signal that comes when the command has already ended changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._promoted = False
        self._wake: Callable[[], None] | None = None

    @property
    def reason(self) -> StopReason | None:
        """Why the job was to stop, None while it was not."""
        return self._reason

    @property
    def promoted(self) -> bool:
        """Whether somebody has come to wait for a job of the background."""
        return self._promoted

    def promote(self) -> None:
        """Have a job that runs in the background go on as one that somebody waits for."""
        with self._lock:
            if not self._promoted:
                self._promoted = True
                if self._wake is not None:
                    self._wake()

    def stop(self, reason: StopReason) -> None:
        """Wake `run()` at once; it returns when the process tree is gone."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
                if self._wake is not None:
                    self._wake()

    def attach(self, wake: Callable[[], None]) -> None:
        """For `run()`: have `wake` called at the stop or promotion, at once if that has been.

        Raises:
            RuntimeError: The signal already belongs to a running job.
        """
        with self._lock:
            if self._wake is not None:
                raise RuntimeError("this StopSignal already belongs to a running job; make one for each")
            self._wake = wake
            if self._reason is not None or self._promoted:
                wake()

    def detach(self) -> None:
        """For `run()`: `wake` is not called after this returns."""
        with self._lock:
            self._wake = None
