"""One look at a model folder, whatever stands there; and which file systems tell of no changes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.asks import GONE, digest
from mlc_jitd.watch.look import TORN, UNREADABLE, Look, look
from mlc_jitd.watch.mounts import Mounts

if TYPE_CHECKING:
    from pathlib import Path

    from harness.daemons import Place

NAME = "mlc-chat-config.json"


@pytest.fixture
def model(place: Place) -> Path:
    folder = place.folder("m")
    (folder / NAME).write_bytes(b"{}")
    return folder


def see(folder: Path, last: Look | None = None, *, thoroughly: bool = False, later: float = 100.0) -> Look:
    return look(str(folder), last, thoroughly=thoroughly, now=time.time() + later)


def test_a_config_is_its_content(model: Path) -> None:
    found = see(model)
    assert (found.config, found.payload, found.fresh) == (digest(b"{}"), b"{}", False)
    assert [hop.folder for hop in found.hops] == [str(model)]


def test_an_equal_mark_is_no_reason_to_read(model: Path) -> None:
    found = see(model)
    assert see(model, found) is found
    assert see(model, found, thoroughly=True) is not found
    os.utime(model / NAME)
    assert see(model, found) is not found


def test_what_changed_just_now_is_read_again_at_an_equal_mark(model: Path) -> None:
    os.utime(model / NAME)
    found = see(model, later=0.0)
    assert found.fresh
    assert see(model, found) is not found


def test_a_folder_that_was_made_anew_has_another_mark(model: Path) -> None:
    found = see(model)
    model.rename(model.with_name("away"))
    model.mkdir()
    os.link(model.with_name("away") / NAME, model / NAME)  # the very same file
    assert see(model, found) is not found


@pytest.mark.parametrize(
    ("payload", "config"), [(b"", TORN), (b'{"a"', TORN), (b"[]", TORN), (b"[" * 50_000, TORN), (b"\xff", TORN)]
)
def test_what_is_no_object_is_half_a_config(model: Path, payload: bytes, config: str) -> None:
    (model / NAME).write_bytes(payload)
    assert see(model).config == config


def test_what_is_not_there_is_gone(model: Path) -> None:
    (model / NAME).unlink()
    assert see(model).config == GONE
    model.rmdir()
    assert see(model).config == GONE
    model.write_text("a file")
    assert see(model).config == GONE


def test_what_is_no_file_is_unreadable_and_holds_nobody(model: Path) -> None:
    (model / NAME).unlink()
    os.mkfifo(model / NAME)
    assert "no regular file" in see(model).trouble
    (model / NAME).unlink()
    (model / NAME).mkdir()
    assert see(model).config == UNREADABLE
    (model / NAME).rmdir()
    (model / NAME).symlink_to(NAME)
    assert see(model).config == UNREADABLE
    (model / NAME).unlink()
    (model / NAME).symlink_to("/dev/zero")
    assert see(model).config == UNREADABLE


def test_no_more_is_read_than_a_config_may_have(model: Path) -> None:
    with (model / NAME).open("wb") as file:
        file.truncate(1 << 30)
    assert "bytes" in see(model).trouble


def test_every_folder_with_a_link_on_the_way_is_a_hop(place: Place, model: Path) -> None:
    """As a snapshot of the hub that is reached through a link of somebody's own."""
    hub, own = place.folder("hub"), place.folder("own")
    (hub / "blobs").mkdir()
    (hub / "blobs" / "b1").write_bytes(b"{}")
    (hub / "snapshots" / "r1").mkdir(parents=True)
    (hub / "snapshots" / "r1" / NAME).symlink_to("../../blobs/b1")
    (own / "current").symlink_to(hub / "snapshots" / "r1")
    found = see(own / "current")
    assert found.config == digest(b"{}")
    assert [(hop.folder, hop.name) for hop in found.hops] == [
        (str(own), "current"),
        (str(hub / "snapshots" / "r1"), NAME),
        (str(hub / "blobs"), "b1"),
    ]
    (hub / "blobs" / "b1").unlink()
    assert see(own / "current").config == GONE


INFO = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
28 27 0:40 / /net rw - nfs4 host:/export rw
29 28 0:41 / /net/local rw - tmpfs tmpfs rw
30 27 0:42 / /my\040models rw - fuse.sshfs host: rw
31 27 0:43 / /over rw - overlay overlay rw,lowerdir=/a
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", ""),
        ("/net", "nfs4"),
        ("/net/models/x", "nfs4"),
        ("/network", ""),
        ("/net/local/x", ""),
        ("/my models/x", "fuse.sshfs"),
        ("/over/x", "overlay"),
        ("/", ""),
    ],
)
def test_file_systems_that_tell_of_no_changes(path: str, kind: str) -> None:
    assert Mounts(INFO).silent(path) == kind


def test_without_mountinfo_all_is_local() -> None:
    assert Mounts("").silent("/net/x") == ""
