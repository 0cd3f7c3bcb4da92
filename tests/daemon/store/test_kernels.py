from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from mlc_jitd.store import KernelStore
from mlc_jitd.toolchains.kernels import KernelReport
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import objects
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels.objects import DamagedKernelError, Kernel


def key(number: int) -> str:
    return f"{number:064x}"


def made(folder: Path, *numbers: int, size: int = 100) -> KernelReport:
    """What a compile leaves that made these."""
    (folder / "kernels").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        kernel = Kernel(key(number), (f"f{number}",), 1.5, bytes([number]) * size)
        objects.write(str(folder / "kernels" / key(number)), kernel)
    return KernelReport(way="kernels", kernels=len(numbers), made=tuple(map(key, numbers)))


@pytest.fixture
def store(tmp_path: Path) -> KernelStore:
    (tmp_path / "model_lib").mkdir()
    return KernelStore(tmp_path / "model_lib", limit=10_000)


def path(store: KernelStore, number: int) -> Path:
    return store.root / key(number)[:2] / key(number)


def test_what_a_compile_made_is_known_to_the_next(store: KernelStore, tmp_path: Path) -> None:
    store.take_in(tmp_path / "new", made(tmp_path / "new", 1, 2))
    assert store.totals().kernels == 2
    kernel = objects.read(str(path(store, 1)), key(1), ("f1",))
    assert (kernel.data, kernel.seconds) == (b"\1" * 100, 1.5)
    assert path(store, 1).stat().st_mode & 0o777 == 0o400
    assert store.counters() == {"kernels_compiled": 2}


def test_every_cut_and_every_flipped_bit_is_found(store: KernelStore, tmp_path: Path) -> None:
    store.take_in(tmp_path / "new", made(tmp_path / "new", 1, size=20))
    whole = path(store, 1).read_bytes()
    broken = tmp_path / "broken"
    for length in range(len(whole)):
        broken.write_bytes(whole[:length])
        with pytest.raises(DamagedKernelError):
            objects.read(str(broken), key(1))
    for place in range(len(whole)):
        for bit in range(8):
            broken.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                kernel = objects.read(str(broken), key(1), ("f1",))
            except DamagedKernelError:
                continue
            assert kernel.data == b"\1" * 20, "the header's seconds are the one thing that nothing proves"


def test_a_kernel_in_anothers_place_or_hands_is_refused(store: KernelStore, tmp_path: Path) -> None:
    store.take_in(tmp_path / "new", made(tmp_path / "new", 1))
    with pytest.raises(DamagedKernelError, match="another kernel"):
        objects.read(str(path(store, 1)), key(2))
    with pytest.raises(DamagedKernelError, match="other functions"):
        objects.read(str(path(store, 1)), key(1), ("g",))
    (tmp_path / "link").symlink_to(path(store, 1))
    with pytest.raises(DamagedKernelError):
        objects.read(str(tmp_path / "link"), key(1))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedKernelError, match="regular"):
        objects.read(str(tmp_path / "pipe"), key(1))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DamagedKernelError, match="regular"):
        objects.read(str(tmp_path / "folder"), key(1))
    path(store, 1).chmod(0o620)
    with pytest.raises(DamagedKernelError, match="somebody else"):
        objects.read(str(path(store, 1)), key(1))


def test_the_least_recently_used_go_and_what_was_just_used_stays(tmp_path: Path) -> None:
    now = [1000.0]
    library = tmp_path / "model_lib"
    library.mkdir()
    store = KernelStore(library, limit=6000, clock=lambda: now[0])
    for number in range(1, 5):
        now[0] += 10
        store.take_in(tmp_path / "new", made(tmp_path / "new", number, size=1000))
    now[0] += 10
    store.take_in(tmp_path / "new", KernelReport(way="kernels", reused=(key(1),), saved=1.5))
    now[0] += 10
    store.take_in(tmp_path / "new", made(tmp_path / "new", 5, 6, size=1000))
    left = [number for number in range(1, 7) if path(store, number).exists()]
    assert 1 in left, "it was used after 2 to 4"
    assert {5, 6} <= set(left)
    assert 2 not in left
    assert store.totals().bytes <= 6000
    counters = store.counters()
    assert counters["kernels_dropped"] == 6 - len(left)
    assert (counters["kernels_reused"], counters["kernel_milliseconds_saved"]) == (1, 1500)


def test_only_what_is_really_damaged_is_removed(store: KernelStore, tmp_path: Path) -> None:
    store.take_in(tmp_path / "new", made(tmp_path / "new", 1, 2))
    path(store, 1).chmod(0o600)
    path(store, 1).write_bytes(b"nonsense")
    report = KernelReport(way="kernels", damaged=(key(1), key(2), key(3), "../../etc/passwd"))
    store.take_in(tmp_path / "new", report)
    assert not path(store, 1).exists()
    assert path(store, 2).exists(), "another process had put a good one there meanwhile"
    assert store.counters()["kernels_damaged"] == 4


def test_a_report_can_name_no_file_outside(store: KernelStore, tmp_path: Path) -> None:
    (tmp_path / "new" / "kernels").mkdir(parents=True)
    (tmp_path / "new" / "victim").write_text("x")
    store.take_in(tmp_path / "new", KernelReport(way="kernels", made=("../victim",), reused=("../../x",)))
    assert (tmp_path / "new" / "victim").exists()
    assert store.totals().kernels == 0
    assert store.counters()["kernels_unkept"] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_fails_no_compile(
    store: KernelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    report = made(tmp_path / "new", 1)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", refuse)
    store.take_in(tmp_path / "new", report)
    assert store.counters()["kernels_unkept"] == 1
    assert store.totals().kernels == 0


def test_many_compiles_at_once_publish_and_trim(tmp_path: Path) -> None:
    library = tmp_path / "model_lib"
    library.mkdir()
    stores = [KernelStore(library, limit=20_000) for _ in range(2)]  # two daemons, say
    bad: list[str] = []

    def work(which: int) -> None:
        for turn in range(20):
            numbers = [(which * 7 + turn + extra) % 40 for extra in range(4)]
            folder = tmp_path / f"new-{which}-{turn}"
            stores[which % 2].take_in(folder, made(folder, *numbers, size=800))
            for number in numbers:
                try:
                    if objects.read(str(path(stores[0], number)), key(number)).data != bytes([number]) * 800:
                        bad.append(f"{number} has other bytes")
                except FileNotFoundError:
                    continue  # dropped, for room
                except DamagedKernelError as error:
                    bad.append(str(error))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []
    assert 0 < stores[0].totals().bytes <= 20_000
