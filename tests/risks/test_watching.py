"""Model folders that change in every way that folders change: never a wrong library, and the cache follows."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import status
from harness.leftovers import until
from harness.watching import CONFIG, Listener, edit, folder, settle
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Daemon
    from harness.doubles import Double


def ask(model: Path) -> str:
    """The library for a model as it is now; it is the right one, or the test ends here."""
    library = jit(model, {}, "cpu").model_lib_path
    made_of = json.loads(Path(library).read_bytes().splitlines()[-1])["config"]
    config = json.dumps(json.loads((model / CONFIG).read_bytes()), sort_keys=True)
    assert made_of == hashlib.sha256(config.encode()).hexdigest()
    return library


def in_place(config: Path, payload: bytes) -> None:
    config.write_bytes(payload)


def by_rename(config: Path, payload: bytes) -> None:
    other = config.with_name("new")
    other.write_bytes(payload)
    other.replace(config)


def by_removing_first(config: Path, payload: bytes) -> None:
    config.unlink()
    config.write_bytes(payload)


def through_mmap(config: Path, payload: bytes) -> None:
    """No event comes of this."""
    with config.open("r+b") as file:
        file.truncate(len(payload))
        with mmap.mmap(file.fileno(), len(payload)) as memory:
            memory[:] = payload


def behind_a_link(config: Path, payload: bytes) -> None:
    """As the hub's downloads: a new blob, and a link to it; later the blob itself is written."""
    if not config.is_symlink():
        blob = config.parent.parent / "blobs" / "one"
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(payload)
        (config.parent / "link").symlink_to("../blobs/one")
        (config.parent / "link").replace(config)
    else:
        (config.parent.parent / "blobs" / "one").write_bytes(payload)


def with_its_folder(config: Path, payload: bytes) -> None:
    model = config.parent
    shutil.rmtree(model)
    model.mkdir()
    config.write_bytes(payload)


def under_a_renamed_folder(config: Path, payload: bytes) -> None:
    """A watch goes on to follow the old folder, wherever that is."""
    model = config.parent
    model.rename(model.with_name(f"{model.name}-{len(list(model.parent.iterdir()))}"))
    model.mkdir()
    config.write_bytes(payload)


WAYS = [in_place, by_rename, by_removing_first, through_mmap, behind_a_link, with_its_folder, under_a_renamed_folder]


@pytest.mark.parametrize("way", WAYS)
def test_a_config_that_changes(daemon: Daemon, double: Double, way: Callable[[Path, bytes], None]) -> None:
    model = double.model()
    libraries = [ask(model)]
    settle(model)
    with Listener(daemon) as heard:
        for number in (1, 2):
            way(model / CONFIG, double.module.config(vocab_size=600 + number))
            libraries.append(ask(model))  # at once, whether or not anything was noticed
            assert ask(model) == libraries[-1]
            heard.wait("changed", number)
            heard.wait("stale", number)
            settle(model)
        way(model / CONFIG, double.module.config(vocab_size=512))
        assert ask(model) == libraries[0]
        heard.wait("changed", 3)
    assert len(set(libraries)) == 3
    assert len(double.starts()) == 3


def test_what_is_asked_for_again_is_no_longer_stale(daemon: Daemon, double: Double) -> None:
    model, other = double.model(), double.model("other")
    before = (model / CONFIG).read_bytes()
    first = ask(model)
    settle(model)
    with Listener(daemon) as heard:
        (model / CONFIG).write_bytes(double.module.config(vocab_size=600))
        heard.wait("stale")
        assert ask(other) == first  # the same entry, asked for by another folder
        heard.wait("current")  # it may change before the daemon has looked at it
        (other / CONFIG).write_bytes(double.module.config(vocab_size=601))
        heard.wait("stale", 2)
        (model / CONFIG).write_bytes(before)
        heard.wait("current", 2)
        assert ask(model) == first
    assert len(double.starts()) == 1


@pytest.mark.parametrize("way", [in_place, by_rename, through_mmap, with_its_folder])
def test_a_touch_without_change_recompiles_nothing(
    daemon: Daemon, double: Double, way: Callable[[Path, bytes], None], mlc_jit: Callable[..., object]
) -> None:
    model = double.model()
    library = ask(model)
    mlc_jit("pin", model, "--device", "cpu")
    settle(model)
    before = status().counters["watch_looks"]
    way(model / CONFIG, (model / CONFIG).read_bytes())
    os.utime(model / CONFIG)
    until(lambda: status().counters["watch_looks"] > before, what="a look")
    asked = status().counters.get("watch_prewarms", 0)
    edit(model, temperature=1.5, conv_template="other")  # a change that reaches no compiler
    until(lambda: status().counters.get("watch_changed", 0) == 1, what="the change to be noticed")
    until(lambda: status().counters.get("watch_prewarms", 0) > asked, what="the pinned question to be asked again")
    assert "watch_stale" not in status().counters
    assert Path(library).exists()
    assert jit(model, {}, "cpu").model_lib_path == library
    assert len(double.starts()) == 1


def test_weights_that_change_do_nothing(daemon: Daemon, double: Double) -> None:
    model = double.model()
    ask(model)
    settle(model)
    before = status().counters
    for number in range(20):
        (model / f"params_shard_{number}.bin").write_bytes(b"x" * 100)
    (model / "ndarray-cache.json").write_text("{}")
    library = ask(model)
    after = status().counters
    assert after.get("watch_changed", 0) == before.get("watch_changed", 0)
    assert (after["compiles"], ask(model)) == (1, library)


def test_a_folder_that_vanishes_and_comes_back(daemon: Daemon, double: Double) -> None:
    model = double.model()
    library = ask(model)
    settle(model)
    with Listener(daemon) as heard:
        model.rename(model.with_name("away"))
        assert heard.wait("gone").folder == str(model)
        heard.wait("stale")
        settle(model, "gone")
        model.with_name("away").rename(model)
        heard.wait("back")
        heard.wait("current")
        settle(model)
        (model / CONFIG).write_bytes(double.module.config(vocab_size=600))  # the new watch is alive
        heard.wait("changed")
        (model / CONFIG).write_bytes(double.module.config())
        heard.wait("changed", 2)
        assert ask(model) == library
    assert len(double.starts()) == 1


def test_half_a_config_is_waited_out(daemon: Daemon, double: Double) -> None:
    model = double.model()
    ask(model)
    settle(model)
    payload = double.module.config(vocab_size=600)
    with Listener(daemon) as heard:
        before = status().counters["watch_looks"]
        (model / CONFIG).write_bytes(payload[: len(payload) // 2])
        until(lambda: status().counters["watch_looks"] > before, what="a look at half a config")
        assert "changed" not in heard.words()
        (model / CONFIG).write_bytes(payload)
        heard.wait("changed")


def test_a_fifo_in_the_place_of_a_config_holds_nobody(daemon: Daemon, double: Double) -> None:
    model, other = double.model(), double.model("other", vocab_size=700)
    ask(model)
    ask(other)
    settle(model)
    (model / CONFIG).unlink()
    os.mkfifo(model / CONFIG)
    until(lambda: "regular" in getattr(folder(model), "why", ""), what="the FIFO to be noticed")
    with Listener(daemon) as heard:
        edit(other, vocab_size=701)
        heard.wait("changed")


def kept_events() -> int:
    """How many events the kernel keeps for one that does not read them: 16,384 where nobody changed that."""
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def storm(model: Path, events: int) -> None:
    """Four events for each file: created, closed, moved away, moved here."""
    for number in range(events // 4):
        path = model / f"{number}.tmp"
        path.touch()
        path.rename(model / "x")
    (model / "x").unlink()


@pytest.mark.timeout(60)
def test_20_000_events_while_the_daemon_is_stopped(daemon: Daemon, double: Double) -> None:
    model = double.model()
    ask(model)
    settle(model)
    with Listener(daemon) as heard:
        os.kill(daemon.pid, signal.SIGSTOP)
        storm(model, 20_000)
        (model / CONFIG).write_bytes(double.module.config(vocab_size=600))
        os.kill(daemon.pid, signal.SIGCONT)
        library = ask(model)
        heard.wait("changed", limit=30)
        heard.wait("stale")
        assert ask(model) == library
        settle(model)
        (model / CONFIG).write_bytes(double.module.config(vocab_size=601))  # it still watches
        heard.wait("changed", 2)
        ask(model)


@pytest.mark.timeout(60)
def test_more_events_than_the_kernel_keeps_are_a_loss(daemon: Daemon, double: Double) -> None:
    kept = kept_events()
    if kept > 65_536:
        pytest.skip(f"this kernel keeps {kept} events: too many to fill in a test")
    model = double.model()
    ask(model)
    settle(model)
    with Listener(daemon) as heard:
        os.kill(daemon.pid, signal.SIGSTOP)
        storm(model, kept + 4096)
        os.kill(daemon.pid, signal.SIGCONT)
        heard.wait("lost", limit=40)
        assert status().counters["watch_lost_overflow"] == 1
        settle(model)
        edit(model, vocab_size=601)  # it still watches
        heard.wait("changed")


def test_changes_while_no_daemon_runs(start_daemon: Callable[..., Daemon], double: Double) -> None:
    edited, removed, same = (
        double.model("edited"),
        double.model("removed", vocab_size=700),
        double.model("same", vocab_size=701),
    )
    first = start_daemon()
    old = ask(edited)
    for each in (removed, same):
        ask(each)
    for each in (edited, removed, same):
        settle(each)
    assert first.stop() == 0
    storm(edited, 4000)
    (edited / CONFIG).write_bytes(double.module.config(vocab_size=600))
    shutil.rmtree(removed)
    os.utime(same / CONFIG)
    start_daemon()
    until(lambda: status().counters.get("watch_stale", 0) == 2, what="both keys to become stale")
    settle(removed, "gone")
    settle(same)
    assert ask(edited) != old
    assert len(double.starts()) == 4
