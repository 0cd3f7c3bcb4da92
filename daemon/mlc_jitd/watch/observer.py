"""Events from the kernel, through watchdog: which folders are watched, and every sign that events were lost.

An event says only that it is worth looking. What events can't tell is in docs/watching.md.

On Linux it stands on watchdog's reader of inotify itself, not on its observer: that one starts a thread for each
folder, pairs renames by a search through all that waits (20,000 events took it 20 s of the interpreter's time, in which
hits waited), takes an emitter that stopped for a living one, and tells of an overflow in its log alone. Elsewhere the
observer serves.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MOST_WATCHES = 512
"""Folders that are watched by events; the rest are polled. Small hosts allow a user 8,192 in all programs together."""

AT_A_TIME = 128
PAUSE_SECONDS = 0.02
"""So many events in so many seconds are read, and no more."""

Place = tuple[int, int]
"""Device and inode of a folder: one that was made anew has the same name and no watch."""


@dataclass(slots=True)
class _Watch:
    place: Place
    names: frozenset[str]
    held: Any = None


class Events:
    """The folders that are watched. From one thread; ``poke`` and ``lost`` are called in others.

    Args:
        poke: Told a folder in which something happened.
        lost: Told in a word why events may have been lost.
        source: Makes what brings the events.
    """

    def __init__(
        self,
        poke: Callable[[str], None],
        lost: Callable[[str], None],
        source: Callable[[Callable[[str, str], None], Callable[[], None]], Any] | None = None,
    ) -> None:
        self._poke = poke
        self._lost = lost
        self._source = source or (Inotify if sys.platform.startswith("linux") else Observed)
        self._running: Any = None
        self._watches: dict[str, _Watch] = {}
        self.remade = 0
        """How often a folder was found to be another one than was watched."""

    def watch(self, folder: str, place: Place, names: frozenset[str]) -> str:
        """Watch a folder, if it is not watched yet.

        Args:
            folder: Its path, without a link in it.
            place: What is there now.
            names: The names in it that matter.

        Returns:
            Why it can't be watched; nothing if it is.
        """
        known = self._watches.get(folder)
        if known is not None and known.place == place:
            known.names = names
            return ""
        if known is not None:
            self.unwatch(folder)
            self.remade += 1
        if len(self._watches) >= MOST_WATCHES:
            return f"{MOST_WATCHES} folders are watched already"
        watch = self._watches[folder] = _Watch(place, names)
        try:
            if self._running is None:
                self._running = self._source(self._happened, lambda: self._lost("overflow"))
            watch.held = self._running.add(folder)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from watching, the folder is polled instead
            del self._watches[folder]
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ""

    def unwatch(self, folder: str) -> None:
        """Watch it no longer."""
        watch = self._watches.pop(folder, None)
        if watch is not None and self._running is not None:
            try:
                self._running.remove(watch.held)
            except Exception as error:  # noqa: BLE001 - it is gone, one way or the other
                logger.debug("%s could not be let go: %s", folder, error)

    def keep_only(self, folders: set[str]) -> None:
        """Watch no others than these."""
        for folder in self._watches.keys() - folders:
            self.unwatch(folder)

    def check(self) -> None:
        """See that what brings the events is alive; if not, nothing is watched any more, and that is told as a loss."""
        if self._running is None:
            return
        if not self._running.alive():
            self.close()
            self._lost("observer died")
            return
        for folder, watch in list(self._watches.items()):
            if not self._running.watches(watch.held):
                self.unwatch(folder)
                self._poke(folder)

    @property
    def alive(self) -> bool:
        """Whether what brings the events is, if anything does; from any thread."""
        running = self._running
        return running is None or bool(running.alive())

    @property
    def watched(self) -> int:
        """How many folders are watched."""
        return len(self._watches)

    def close(self) -> None:
        """End all threads."""
        running, self._running = self._running, None
        self._watches.clear()
        if running is not None:
            try:
                running.close()
            except Exception as error:  # noqa: BLE001 - it is being dropped
                logger.debug("an observer could not be ended: %s", error)

    def _happened(self, folder: str, name: str) -> None:
        """In the thread that reads events: quick, and most are about weights."""
        watch = self._watches.get(folder)
        if watch is not None and (not name or name in watch.names):
            self._poke(folder)


class Inotify:
    """watchdog's reader of inotify: one thread for all folders."""

    def __init__(self, happened: Callable[[str, str], None], overflow: Callable[[], None]) -> None:
        from watchdog.observers.inotify_c import InotifyFD  # noqa: PLC0415 - Linux alone

        self._happened = happened
        self._overflow = overflow
        self._events = 0
        self._since = 0.0
        self._reader = InotifyFD()
        self._reader.start()

    def add(self, folder: str) -> _Callback:
        """Watch a folder."""
        callback = _Callback(folder, self._heard, self._overflow)
        callback.descriptor = self._reader.add_callback(os.fsencode(folder), _mask(), callback, _id(callback))
        if callback.descriptor == -1:  # it keeps this one error to itself
            raise PermissionError(0, "it may not be read")
        return callback

    def remove(self, callback: _Callback) -> None:
        """Watch it no longer."""
        self._reader.remove_callbacks([(callback.descriptor, _id(callback))])

    def _heard(self, folder: str, name: str) -> None:
        """An event, in the reader's thread.

        A storm must not take the interpreter from those who answer hits: what is not read in time overflows, and that
        is a loss like any other.
        """
        self._happened(folder, name)
        self._events += 1
        if self._events >= AT_A_TIME:
            now, self._events = time.monotonic(), 0
            if now - self._since < PAUSE_SECONDS:
                time.sleep(PAUSE_SECONDS - (now - self._since))
            self._since = time.monotonic()

    def alive(self) -> bool:
        """Whether events come at all."""
        return bool(self._reader.is_alive())

    def watches(self, callback: _Callback) -> bool:
        """Whether events of this folder come."""
        return not callback.deleted

    def close(self) -> None:
        """End the thread."""
        self._reader.stop()
        self._reader.join(1.0)


class _Callback:
    def __init__(self, folder: str, happened: Callable[[str, str], None], overflow: Callable[[], None]) -> None:
        self.folder = folder
        self.descriptor: Any = -1
        self.deleted = False
        self._happened = happened
        self._overflow = overflow

    def on_event(self, event: Any) -> None:
        self._happened(self.folder, os.fsdecode(event.name))

    def on_watch_deleted(self, _descriptor: Any) -> None:
        self.deleted = True
        self._happened(self.folder, "")

    def on_queue_overflow(self) -> None:
        self._overflow()


def _id(callback: _Callback) -> Any:
    return id(callback)


def _mask() -> Any:
    """Not every write to a file: a download of weights would be heard of a million times."""
    from watchdog.observers.inotify_c import InotifyConstants as In  # noqa: PLC0415 - Linux alone

    return (
        In.IN_CREATE | In.IN_DELETE | In.IN_MOVED_FROM | In.IN_MOVED_TO | In.IN_CLOSE_WRITE
        | In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_ONLYDIR
    )  # fmt: skip


class Observed:
    """watchdog's observer for the platform."""

    def __init__(
        self, happened: Callable[[str, str], None], overflow: Callable[[], None], observer: Any = None
    ) -> None:
        from watchdog.observers import Observer  # noqa: PLC0415 - elsewhere than on Linux

        self._happened = happened
        self._overflow = overflow
        self._observer = observer or Observer()
        self._observer.start()

    def add(self, folder: str) -> Any:
        """Watch a folder."""
        from watchdog.events import FileSystemEvent, FileSystemEventHandler  # noqa: PLC0415 - likewise

        happened = self._happened

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                for path in (event.src_path, event.dest_path):
                    text = os.fsdecode(path)
                    if text:
                        happened(folder, "" if text == folder else os.path.basename(text))  # noqa: PTH119 - often

        return self._observer.schedule(Handler(), folder, recursive=False)

    def remove(self, watch: Any) -> None:
        """Watch it no longer."""
        self._observer.unschedule(watch)

    def alive(self) -> bool:
        """Whether events come at all."""
        return bool(self._observer.is_alive())

    def watches(self, watch: Any) -> bool:
        """Whether events of this folder come: an emitter stops by itself when its folder is removed."""
        return any(each.watch == watch and each.is_alive() for each in self._observer.emitters)

    def close(self) -> None:
        """End the threads."""
        self._observer.stop()
        self._observer.join(1.0)
