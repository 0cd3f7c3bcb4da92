"""File systems that are shared, can't lock or can't execute: told apart, and said."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.errors import StoreError
from mlc_jitd.store import About, Store, ToolchainRecord, prepare
from mlc_jitd.store.filesystem import can_not_execute, file_system, is_network, why_no_locks

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /mnt/share rw - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /mnt/share/local rw - tmpfs tmpfs rw
42 22 0:42 / /mnt/with\\040blank rw - fuse.sshfs host:/ rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/cache", "ext4", False),
        ("/mnt/share/mlc/model_lib", "nfs4", True),
        ("/mnt/share/local/mlc", "tmpfs", False),
        ("/mnt/with blank/mlc", "fuse.sshfs", True),
        ("/mnt/sharely", "ext4", False),
    ],
)
def test_the_mount_table_says_what_a_path_is_on(tmp_path: Path, path: str, kind: str, network: bool) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert file_system(Path(path), table=table) == kind
    assert is_network(kind) is network


def test_without_a_mount_table_nothing_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path, table=tmp_path / "none") == ""
    assert not is_network("")


def test_a_network_home_whose_locks_work_is_said_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "file_system", lambda _path: "nfs4")
    (warning,) = Store(home).open().warnings
    assert warning.startswith(f"{home} is on nfs4: key locks work there")
    assert "on this host" in warning


def flock_that(answer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_fd: Any, _operation: int) -> None:
        if answer is not None:
            raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(None, "two held one lock at a time"), (errno.ENOLCK, "locking failed: No locks available")],
)
def test_locks_that_lie_or_fail_are_said_with_what_follows(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None, why: str
) -> None:
    monkeypatch.setattr(prepare, "file_system", lambda _path: "cifs")
    layout = Store(home).layout
    Store(home).open()
    flock_that(answer, monkeypatch)
    assert why_no_locks(layout.locks) == why
    warning = prepare.odd_file_system(layout)
    assert why in warning
    assert "compiled twice" in warning
    assert "MLC_JITD_LAYERS" in warning


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_lock_that_is_refused_is_a_declared_error_with_a_remedy(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = Store(home)
    store.open()
    flock_that(number, monkeypatch)
    with pytest.raises(StoreError) as refused:
        store.lock("ab" * 32).acquire(0)
    assert refused.value.reason == "no-locks"
    assert "local disk" in refused.value.remedy
    with pytest.raises(StoreError) as refused, store.staging("ab" * 32, need=0):
        pytest.fail("nothing is locked")
    assert refused.value.reason == "no-locks"
    monkeypatch.undo()
    with store.lock("ab" * 32), store.staging("ab" * 32, need=0) as folder:
        (folder / "lib").write_bytes(b"x")
        store.publish("ab" * 32, folder / "lib", About(suffix="so", toolchain=ToolchainRecord(name="double")))


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root on Linux")
    folder = tmp_path / "noexec"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_home_that_nothing_can_be_loaded_from(noexec: Path, tmp_path: Path) -> None:
    assert can_not_execute(noexec)
    assert not can_not_execute(tmp_path / "nowhere")
    (warning,) = Store(noexec).open().warnings
    assert "noexec" in warning
