"""Full disks and homes that can't be written: injected, and once with real small file systems where root may mount."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlc_jit.errors import StoreError, StoreFullError, StoreUnwritableError
from mlc_jitd.store import About, Entry, Found, Missing, Store

KEY, OTHER = "ab" * 32, "cd" * 32
Publish = Callable[..., Entry]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB and 100 files."""
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o755)
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100,mode=755", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def publish_refused(store: Store, about: About, expected: type[StoreError]) -> StoreError:
    with store.lock(KEY), store.staging(KEY, need=0) as folder:
        (folder / "lib.so").write_bytes(b"new")
        with pytest.raises(expected) as caught:
            store.publish(KEY, folder / "lib.so", about)
    return caught.value


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EROFS, StoreUnwritableError),
        (errno.EACCES, StoreUnwritableError),
        (errno.EIO, StoreError),
    ],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("call", ["fsync", "write", "rename-artifact", "rename-manifest"])
@pytest.mark.parametrize("before", [False, True], ids=["first", "redo"])
def test_a_refusal_in_the_middle_leaves_nothing_partial(
    store: Store,
    publish: Publish,
    about: About,
    monkeypatch: pytest.MonkeyPatch,
    *,
    number: int,
    expected: type[StoreError],
    call: str,
    before: bool,
) -> None:
    if before:
        old = publish(store, b"old")
    with monkeypatch.context() as patch:
        if call in {"fsync", "write"}:
            patch.setattr(os, call, refusing(number))
        else:
            real = Path.rename
            ending = ".so" if call == "rename-artifact" else ".json"

            def rename(self: Path, target: Path) -> Path:
                return refusing(number)() if str(target).endswith(ending) else real(self, target)

            patch.setattr(Path, "rename", rename)
        error = publish_refused(store, about, expected)
    assert type(error) is expected
    assert error.key == KEY
    assert str(store.layout.library) in error.message
    found = store.find(KEY)
    if before:
        assert found == Found(old)
    else:
        assert isinstance(found, Missing)
        assert list(store.layout.library.glob("*-*")) == []
    assert list(store.layout.staging.iterdir()) == []
    assert isinstance(store.find(publish(store, b"new").key), Found)


def test_a_real_full_disk(small_disk: Path, publish: Publish, about: About) -> None:
    store = Store(small_disk, reserve=0)
    store.open()
    old = publish(store, b"o" * 300_000)
    with pytest.raises(StoreFullError, match="MiB free"), store.staging(OTHER, need=1 << 20):
        pytest.fail("it does not fit")
    with store.lock(KEY), store.staging(KEY, need=0) as folder:
        (folder / "lib.so").write_bytes(b"n" * 300_000)
        fill(folder / "filler")
        with pytest.raises(StoreFullError) as caught:
            store.publish(KEY, folder / "lib.so", about)
    assert "Free space" in caught.value.remedy
    assert store.totals() == (1, 300_000)
    found = store.find(KEY)
    assert isinstance(found, Found)
    assert found.entry.path == old.path
    assert Path(publish(store, b"n" * 300_000).path).stat().st_size == 300_000


def test_a_disk_that_is_full_at_the_start_is_tried_again(small_disk: Path, publish: Publish) -> None:
    fillers = []
    with contextlib.suppress(OSError):
        for number in range(1000):
            (small_disk / str(number)).mkdir()
            fillers.append(small_disk / str(number))
    store = Store(small_disk, reserve=0)
    report = store.open()
    assert not report.writable
    assert "No space left" in report.warnings[0]
    with pytest.raises(StoreFullError):
        store.lock(KEY)
    for filler in fillers:
        filler.rmdir()
    assert isinstance(store.find(publish(store).key), Found)


def test_a_real_read_only_home_is_served(small_disk: Path, publish: Publish) -> None:
    store = Store(small_disk, reserve=0)
    store.open()
    entry = publish(store)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    reader = Store(small_disk)
    report = reader.open()
    assert not report.writable
    assert "Read-only file system" in report.warnings[0]
    found = reader.find(KEY)
    assert isinstance(found, Found)
    assert found.entry.path == entry.path
    for call in (lambda: reader.lock(OTHER), lambda: reader.staging(OTHER, need=0)):
        with pytest.raises(StoreUnwritableError) as caught:
            call()
        assert caught.value.reason == "read-only"
        assert "MLC_LLM_HOME" in caught.value.remedy
    # It became read-only while the first one was open.
    with pytest.raises(StoreUnwritableError), store.staging(OTHER, need=0):
        pytest.fail("it can't be written")
    with pytest.raises(StoreUnwritableError):
        store.lock(OTHER).acquire(0)


def test_an_empty_home_that_cannot_be_made(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere: see the test with another user")
    tmp_path.chmod(0o500)
    store = Store(tmp_path / "home")
    assert not store.open().writable
    assert isinstance(store.find(KEY), Missing)
    with pytest.raises(StoreUnwritableError, match="Permission denied"):
        store.lock(KEY)


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from mlc_jit.errors import StoreUnwritableError
from mlc_jitd.store import Found, Store
os.setgroups([]); os.setgid(54321); os.setuid(54321)    # after the imports: root's Python may be root's alone
home, other = Path(sys.argv[1]), Path(sys.argv[2])
store = Store(home)
report = store.open()
assert not report.writable and "Permission denied" in report.warnings[0], report
assert isinstance(store.find("ab" * 32), Found)
try:
    store.lock("ab" * 32)
except StoreUnwritableError as error:
    assert error.reason == "denied" and "MLC_LLM_HOME" in error.remedy, error
else:
    raise SystemExit("it must not be locked")
empty = Store(other)
assert not empty.open().writable
assert empty.find("ab" * 32).reason == "absent"
"""


def test_another_user_is_served_from_roots_home_and_cannot_write_it(tmp_path: Path, publish: Publish) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        outside = Path(name)
        outside.chmod(0o755)
        store = Store(outside / "home")
        store.open()
        publish(store)
        argv = [sys.executable, "-c", AS_ANOTHER_USER, outside / "home", outside / "other"]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=40, check=False)
        assert run.returncode == 0, run.stderr
