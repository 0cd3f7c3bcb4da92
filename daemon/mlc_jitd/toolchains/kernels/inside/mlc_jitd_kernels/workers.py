"""Forked children of a compile that take one piece of work after the other; or this process, where it can't be forked.

The pieces' numbers stand in a pipe that all children read, heaviest first; each end of one is told on a second pipe. A
child ends with its parent, and belongs to the job's process tree like any other.
"""

# ruff: noqa: PTH115, PTH208
from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import struct
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
_PR_SET_PDEATHSIG = 1
_NUMBER = struct.Struct("<I")
_DONE = struct.Struct("<I?d")
_CHUNK = 1024
"""Numbers written at once: less than any pipe holds."""


class WorkerError(Exception):
    """A child did not do its part; the text says which way it went."""


def unforkable() -> str:
    """Why this process must not be forked now, empty if it may be."""
    if sys.platform != "linux":
        return f"this is {sys.platform}"
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"{threads} native threads"
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if (opened := os.readlink(f"/proc/self/fd/{fd}")).startswith(GPUS):
                return f"{opened} is open"
    return ""


def run(
    order: Sequence[int], workers: int, work: Callable[[int], bool], done: Callable[[int, bool, float], None]
) -> None:
    """Do every piece once.

    Args:
        order: The pieces' numbers, in the order in which they are to start.
        workers: How many at a time.
        work: Does one; what it returns is passed on. Called in a child.
        done: Told number, result and processor seconds of each piece that ended, here.

    Raises:
        WorkerError: A child died, or said that it failed; its output says why.
    """
    if unforkable():
        for number in order:
            began = time.process_time()
            done(number, work(number), time.process_time() - began)
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for start in range(0, len(order), _CHUNK):
        _fork(order[start : start + _CHUNK], workers, work, done)


def share_out(pieces: Sequence[str], workers: int, work: Callable[[str], Any]) -> dict[str, Any]:
    """Ask for something about every piece, each process a share of them, this one too.

    Args:
        pieces: What to ask about.
        workers: Processes at a time, with this one.
        work: Answers with something that JSON can hold. What a child can't answer is asked again here.

    Returns:
        The answers, by piece.

    Raises:
        Exception: Whatever ``work`` raises here.
    """
    shares = [pieces[number::workers] for number in range(workers)] if workers > 1 and not unforkable() else [pieces]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.freeze()
    parent = os.getpid()
    children: list[tuple[int, int]] = []
    found: dict[str, Any] = {}
    try:
        for share in shares[1:]:
            answers, answers_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                _answer(parent, answers_end, share, work)
            os.close(answers_end)
            children.append((pid, answers))
        found |= {piece: work(piece) for piece in shares[0]}
        for _, answers in children:
            with open(answers, "rb", closefd=False) as file, contextlib.suppress(ValueError):
                found |= json.load(file)
    finally:
        for _, answers in children:
            os.close(answers)
        _kill([pid for pid, _ in children])
    return {piece: found[piece] if piece in found else work(piece) for piece in pieces}


def _answer(parent: int, answers: int, share: Sequence[str], work: Callable[[str], Any]) -> None:
    """The life of a child that was given a share. Whatever it fails at is done where it came from."""
    try:
        gc.disable()
        _end_with(parent)
        said = json.dumps({piece: work(piece) for piece in share}).encode()
        with open(answers, "wb", closefd=False) as file:
            file.write(said)
    except Exception:  # noqa: BLE001, S110 - the parent meets it too
        pass
    finally:
        os._exit(0)


def _end_with(parent: int) -> None:
    """Have this child end when its parent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _fork(
    order: Sequence[int], workers: int, work: Callable[[int], bool], done: Callable[[int, bool, float], None]
) -> None:
    queue, queue_end = os.pipe()
    told, told_end = os.pipe()
    os.write(queue_end, b"".join(map(_NUMBER.pack, order)))
    os.close(queue_end)
    gc.freeze()
    parent = os.getpid()
    children: list[int] = []
    try:
        try:
            for _ in range(min(workers, len(order))):
                pid = os.fork()
                if pid == 0:
                    _serve(parent, queue, told_end, work)
                children.append(pid)
        finally:
            os.close(told_end)
        ended = _listen(told, done)
        _wait(children)
    finally:
        os.close(queue)
        os.close(told)
        _kill(children)
    if ended != len(order):
        raise WorkerError(f"{len(order) - ended} of {len(order)} pieces were not done")


def _serve(parent: int, queue: int, told: int, work: Callable[[int], bool]) -> None:
    """The life of a child."""
    status = 1
    try:
        gc.disable()
        _end_with(parent)
        while taken := os.read(queue, _NUMBER.size):
            (number,) = _NUMBER.unpack(taken)
            began = time.process_time()
            result = work(number)
            os.write(told, _DONE.pack(number, result, time.process_time() - began))
        status = 0
    except BaseException:  # noqa: BLE001 - it must not return into the parent's code
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _listen(told: int, done: Callable[[int, bool, float], None]) -> int:
    """Until the last child has closed its end; how many pieces ended."""
    ended = 0
    kept = b""
    while chunk := os.read(told, 65536):
        kept += chunk
        while len(kept) >= _DONE.size:
            number, result, seconds = _DONE.unpack_from(kept)
            kept = kept[_DONE.size :]
            ended += 1
            done(number, result, seconds)
    return ended


def _wait(children: list[int]) -> None:
    bad = []
    while children:
        _, status = os.waitpid(children[-1], 0)
        children.pop()
        code = os.waitstatus_to_exitcode(status)
        if code:
            bad.append(f"signal {-code}" if code < 0 else f"exit status {code}")
    if bad:
        raise WorkerError(f"a child ended with {', '.join(bad)}")


def _kill(children: list[int]) -> None:
    """Those that are left because something went wrong here."""
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
