"""The kernels of all toolchains, each in one file that proves itself; the oldest used go when there are too many.

::

    model_lib/.kernels/<first 2 of key>/<key>     one kernel: header, digest, object (``objects.py``)

A compile only reads here. What it made lies in its staging folder, on the same file system, and is renamed into place
when the compile is over and its compiler was seen to be still the one that the keys name. The time of last change is
the time of last use. What does not belong here: what a kernel's key is made of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jitd.store.staging import remove_tree
from mlc_jitd.tally import Tally
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.toolchains.kernels import KernelReport

logger = logging.getLogger(__name__)

FOLDER = ".kernels"
LOW_WATER = 0.9
"""How full the store is after a trim, so that not each publish trims."""


@dataclass(frozen=True, slots=True)
class KernelTotals:
    """How many kernels are known, and their bytes."""

    kernels: int
    bytes: int


class KernelStore:
    """See the module's docstring. From any thread, and beside other processes: every change is one rename or unlink.

    Args:
        library: ``model_lib``.
        limit: Bytes that kernels may take.
        clock: Unix time.
    """

    def __init__(self, library: Path, *, limit: int, clock: Callable[[], float] = time.time) -> None:
        self.root = library / FOLDER
        self._limit = limit
        self._clock = clock
        self._tally = Tally()

    def take_in(self, new: Path, report: KernelReport) -> None:
        """Add what a compile made and note what it used; then the oldest go, if there are too many.

        Nothing here fails a compile: what can't be kept is counted and left out.

        Args:
            new: The compile's folder, with its kernels in ``kernels/``.
            report: What it said.
        """
        self._count("kernels_reused", len(report.reused))
        self._count("kernels_compiled", len(report.made) + report.unkept + report.unkeyed)
        self._count("kernels_unkept", report.unkept + report.unkeyed)
        self._count("nvcc_calls", len(report.devices))
        self._count("nvcc_answers_reused", len(report.devices_reused))
        self._count("kernels_plain", int(report.way == "plain"))
        self._count("kernels_failures", report.failures)
        self._count("kernel_milliseconds_saved", int(report.saved * 1000))
        for key in report.damaged:
            self._drop_damaged(key)
        now = self._clock()
        for key in (*report.reused, *report.devices_reused):
            with contextlib.suppress(OSError, ValueError):
                os.utime(self._place(key), (now, now))
        added = sum(self._add(new / "kernels" / key, key, now) for key in (*report.made, *report.devices))
        if added:
            self.trim(self._limit)

    def has(self, key: str) -> bool:
        """Whether a kernel is there; it is not looked at."""
        return self._place(key).exists()

    def get(self, key: str) -> bytes | None:
        """A kernel's file, if a whole one is there."""
        try:
            return objects.encode(objects.read(os.fspath(self._place(key)), key))
        except (OSError, ValueError):
            return None

    def put(self, key: str, payload: bytes) -> bool:
        """Add a kernel that was made elsewhere, by those who are trusted; whether it is there now.

        Args:
            key: Its key.
            payload: Its file's bytes: they prove that they are whole, and no more.
        """
        part = self.root / f".{secrets.token_hex(8)}"
        try:
            place = self._place(key)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(payload)
            part.chmod(0o400)
            objects.read(os.fspath(part), key)
            part.rename(place)
        except (OSError, ValueError) as error:
            logger.warning("a kernel of another host can't be kept: %s", error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        self._count("kernels_fetched", 1)
        return True

    def trim(self, most: int) -> int:
        """Remove the least recently used where there are too many; a compile that wanted one of them makes it anew.

        Args:
            most: Bytes that they may take; when they take more, some room below that is made.

        Returns:
            Bytes that were removed.
        """
        files = sorted(self._files(), key=lambda each: each[1].st_mtime)
        before = size = sum(found.st_size for _, found in files)
        if size <= most:
            return 0
        dropped = 0
        for path, found in files:
            if size <= most * LOW_WATER:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                size -= found.st_size
                dropped += 1
        self._count("kernels_dropped", dropped)
        logger.info("%d kernels dropped, the least recently used, to keep within %d bytes", dropped, most)
        return before - size

    def gave_up(self) -> None:
        """A compile failed with its code generation taken over, and is run once more without."""
        self._count("kernels_failures", 1)

    def totals(self) -> KernelTotals:
        """How many there are; reads no file."""
        sizes = [found.st_size for _, found in self._files()]
        return KernelTotals(len(sizes), sum(sizes))

    def counters(self) -> dict[str, int]:
        """How often what happened since this object was made.

        ``kernels_fetched``: from other hosts; ``kernels_reused``, ``kernels_compiled``; ``kernels_unkept``: compiled,
        but nobody can reuse them; ``kernels_damaged``: found to be no good; ``kernels_plain``: compiles that TVM's own
        step did; ``kernels_failures``: those among them for which taking it over was tried; ``kernels_dropped``: the
        oldest, for room; ``nvcc_calls``, ``nvcc_answers_reused``; ``kernel_milliseconds_saved``: what the reused ones
        once took, on one core.
        """
        return self._tally.read()

    def _place(self, key: str) -> Path:
        if objects.NAME.fullmatch(key) is None:
            raise ValueError(f"a kernel's key is 64 lower-case hex digits, not {key[:80]!r}")
        return self.root / key[:2] / key

    def _add(self, made: Path, key: str, now: float) -> bool:
        try:
            place = self._place(key)
            made.chmod(0o400)
            os.utime(made, (now, now))
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.rename(place)
        except (OSError, ValueError) as error:
            logger.warning("a kernel can't be kept: %s", error)
            self._count("kernels_unkept", 1)
            return False
        return True

    def _drop_damaged(self, key: str) -> None:
        """Remove what a compile could not use, unless it is good: another process may have put a good one there."""
        self._count("kernels_damaged", 1)
        try:
            place = self._place(key)
            objects.read(os.fspath(place), key)
        except objects.DamagedKernelError:
            remove_tree(place)
        except (OSError, ValueError):
            return

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in _entries(self.root):
            for entry in _entries(folder.path):
                with contextlib.suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)

    def _count(self, name: str, by: int) -> None:
        if by:
            self._tally.add(name, by)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
