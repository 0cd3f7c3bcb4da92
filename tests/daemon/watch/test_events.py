"""Events and their losses: both sources, what dies, what is made anew, and what keeps one from watching."""

from __future__ import annotations

import inspect
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from watchdog.observers.polling import PollingObserver

from harness.leftovers import until
from mlc_jitd.watch import observer
from mlc_jitd.watch.lane import Lane
from mlc_jitd.watch.observer import Events, Inotify, Observed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.daemons import Place

NAMES = frozenset({"config"})
SOURCES: dict[str, Any] = {
    "inotify": Inotify,
    "observer": Observed,
    "polling": lambda happened, overflow: Observed(happened, overflow, PollingObserver(timeout=0.05)),
}


class Heard:
    def __init__(self, source: Any = None) -> None:
        self.pokes: list[str] = []
        self.losses: list[str] = []
        self.events = Events(self.pokes.append, self.losses.append, source)

    def watch(self, folder: Path) -> str:
        about = folder.stat()
        return self.events.watch(str(folder), (about.st_dev, about.st_ino), NAMES)


def test_watchdogs_reader_of_inotify_is_what_we_use() -> None:
    """It is no public interface (see the bound in pyproject.toml). With another one folders would be polled."""
    inotify = pytest.importorskip("watchdog.observers.inotify_c", reason="Linux alone")
    reader, constants = inotify.InotifyFD, inotify.InotifyConstants
    assert issubclass(reader, threading.Thread)
    assert list(inspect.signature(reader).parameters) == []
    assert list(inspect.signature(reader.add_callback).parameters) == ["self", "path", "mask", "callback", "id_"]
    assert list(inspect.signature(reader.remove_callbacks).parameters) == ["self", "callbacks"]
    assert observer._mask() & (constants.IN_CLOSE_WRITE | constants.IN_MOVED_TO)


@pytest.fixture(params=SOURCES)
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    found = Heard(SOURCES[request.param])
    yield found
    found.events.close()


@pytest.fixture
def folder(place: Place) -> Path:
    return place.folder("m")


def test_what_matters_is_told(heard: Heard, folder: Path) -> None:
    assert heard.watch(folder) == ""
    (folder / "config").write_text("x")
    until(lambda: heard.pokes, what="an event")
    assert set(heard.pokes) == {str(folder)}


@pytest.mark.parametrize("heard", ["inotify"], indirect=True)
def test_the_rest_is_not_told(heard: Heard, folder: Path, place: Place) -> None:
    """Where a change of the folder itself is all that is told, it has to be looked at for every file."""
    other = place.folder("other")
    assert heard.watch(folder) == heard.watch(other) == ""
    (folder / "weights").write_text("x")
    (other / "config").write_text("x")  # told behind the one that is not
    until(lambda: heard.pokes, what="an event")
    assert set(heard.pokes) == {str(other)}


def test_a_folder_that_is_removed_is_watched_no_more_and_told(heard: Heard, folder: Path) -> None:
    heard.watch(folder)
    folder.rmdir()
    until(lambda: (heard.events.check(), heard.events.watched == 0)[1], what="the watch to end")
    assert heard.pokes
    folder.mkdir()
    assert heard.watch(folder) == ""
    before = len(heard.pokes)
    (folder / "config").write_text("x")
    until(lambda: len(heard.pokes) > before, what="an event of the new folder")


def test_a_folder_that_was_made_anew_is_watched_anew(heard: Heard, folder: Path) -> None:
    heard.watch(folder)
    folder.rename(folder.with_name("away"))
    folder.mkdir()
    heard.watch(folder)
    assert heard.events.remade == 1
    before = len(heard.pokes)
    (folder / "config").write_text("x")
    until(lambda: len(heard.pokes) > before, what="an event of the new folder")


def test_an_observer_that_died_is_a_loss_and_another_takes_its_place(heard: Heard, folder: Path) -> None:
    heard.watch(folder)
    running = heard.events._running
    running.close()
    until(lambda: (heard.events.check(), heard.losses)[1], what="the loss")
    assert (heard.losses, heard.events.watched) == (["observer died"], 0)
    assert heard.watch(folder) == ""
    assert heard.events._running is not running
    (folder / "config").write_text("x")
    until(lambda: heard.pokes, what="an event")


def test_what_is_not_wanted_is_let_go(heard: Heard, folder: Path, place: Place) -> None:
    other = place.folder("other")
    heard.watch(folder)
    heard.watch(other)
    heard.events.keep_only({str(other)})
    assert heard.events.watched == 1
    (folder / "config").write_text("x")
    (other / "config").write_text("x")
    until(lambda: heard.pokes, what="an event")
    assert set(heard.pokes) == {str(other)}


def test_what_cannot_be_watched_says_why(heard: Heard, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard.events.watch(str(folder / "missing"), (0, 0), NAMES)
    monkeypatch.setattr(observer, "MOST_WATCHES", 0)
    assert "watched already" in heard.watch(folder)
    assert heard.events.watched == 0


def test_no_observer_to_be_had(folder: Path) -> None:
    def none(*_arguments: Any) -> None:
        raise OSError(24, "inotify instance limit reached")

    heard = Heard(none)
    assert heard.watch(folder) == "inotify instance limit reached"
    heard.events.check()
    heard.events.close()


def test_an_overflow_is_a_loss(folder: Path) -> None:
    heard = Heard()
    heard.watch(folder)
    heard.events._watches[str(folder)].held.on_queue_overflow()
    assert heard.losses == ["overflow"]
    heard.events.close()


def test_a_lane_does_one_thing_after_another_and_can_be_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, done, gate = Lane("lane"), [], threading.Event()

    def broken() -> None:
        raise ValueError("an event is lost, the lane is not")

    lane.do(broken)
    lane.do(partial(done.append, 1))
    lane.do(gate.wait)
    lane.do(partial(done.append, 2))
    until(lambda: lane.busy() > 0.05, what="the lane to hang")
    assert done == [1]
    lane.close()  # returns at once
    gate.set()
    until(lambda: done == [1, 2], what="the rest to be done")
    assert lane.busy() == 0.0
