"""Forked children of a compile that answer questions; or this process, where it can't be forked.

Each child has a socket of its own: a question comes as JSON with its length before it, and so goes the answer. What a
child was asked before stays in its memory, so that it can be asked for more of it. It ends with its parent, and belongs
to the job's process tree like any other.
"""

# ruff: noqa: PTH115, PTH208
from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("<Q")


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


class Crew:
    """Some children, or this process alone. To be used in a ``with``: at its end no child is left.

    Args:
        size: How many children.
        answer: Asked in a child; takes and gives what JSON can hold.
        passed: Exceptions of ``answer`` that are raised here as well, with their text. Any other one ends the child.
    """

    def __init__(self, size: int, answer: Callable[[Any], Any], passed: tuple[type[Exception], ...] = ()) -> None:
        self._answer = answer
        self._passed = {kind.__name__: kind for kind in passed}
        self._children: list[tuple[int, socket.socket]] = []
        if not unforkable():
            self.grow(size)

    def grow(self, size: int) -> None:
        """Have at least so many children; fewer where no more can be forked."""
        if size <= len(self._children):
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        gc.freeze()
        try:
            while len(self._children) < size:
                self._fork()
        except OSError:
            return  # of processes or descriptors there are no more: those there are do it
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def forked(self) -> bool:
        """Whether there are children."""
        return bool(self._children)

    @property
    def size(self) -> int:
        """How many there are to be asked."""
        return len(self._children) or 1

    def ask(self, questions: Sequence[Any]) -> list[Any]:
        """Ask the first one the first question, and so on, all at the same time.

        Raises:
            WorkerError: A child died, or failed; its output says why.
        """
        if not self._children:
            return [self._answer(question) for question in questions]
        asked = self._children[: len(questions)]
        for (pid, channel), question in zip(asked, questions, strict=True):
            self._send(pid, channel, question)
        return [self._answer_of(pid, channel) for pid, channel in asked]

    def hand_out(self, choose: Callable[[int], Any], done: Callable[[Any, Any], None]) -> None:
        """Keep all of them busy until there is nothing left.

        Args:
            choose: Gives the next question for one of them, by its number; None: there is none for it any more.
            done: Told each question with its answer, here.

        Raises:
            WorkerError: As for `ask`.
        """
        if not self._children:
            while (question := choose(0)) is not None:
                done(question, self._answer(question))
            return
        waiting = select.poll()
        busy: dict[int, tuple[int, Any]] = {}

        def employ(number: int) -> None:
            pid, channel = self._children[number]
            question = choose(number)
            if question is not None:
                self._send(pid, channel, question)
                waiting.register(channel, select.POLLIN)
                busy[channel.fileno()] = number, question

        for number in range(len(self._children)):
            employ(number)
        while busy:
            for fd, _ in waiting.poll():
                number, question = busy.pop(fd)
                waiting.unregister(fd)
                done(question, self._answer_of(*self._children[number]))
                employ(number)

    def close(self) -> None:
        """End the children, whatever they are at."""
        children, self._children = self._children, []
        for pid, channel in children:
            channel.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, _ in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        try:
            pid = os.fork()
        except BaseException:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()  # so that this one ends with it, whatever became of the parent
            self._live(parent, theirs)
        theirs.close()
        self._children.append((pid, ours))

    def _live(self, parent: int, channel: socket.socket) -> NoReturn:
        """The life of a child."""
        try:
            gc.disable()
            _end_with(parent)
            for _, other in self._children:
                other.close()
            while (question := _receive(channel)) is not None:
                try:
                    said = {"answer": self._answer(question)}
                except tuple(self._passed.values()) as error:
                    said = {"raised": type(error).__name__, "text": str(error)}
                channel.sendall(_packed(said))
                gc.collect()  # what an answer left, and never in the middle of one
        except BaseException:  # noqa: BLE001 - it must not return into the parent's code
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)

    def _send(self, pid: int, channel: socket.socket, question: Any) -> None:
        try:
            channel.sendall(_packed(question))
        except OSError:
            raise self._ended(pid) from None

    def _answer_of(self, pid: int, channel: socket.socket) -> Any:
        try:
            said = _receive(channel)
        except OSError:
            said = None
        if said is None:
            raise self._ended(pid)
        if "raised" in said:
            raise self._passed[said["raised"]](said["text"])
        return said["answer"]

    def _ended(self, pid: int) -> WorkerError:
        for child, channel in self._children:
            if child == pid:
                channel.close()
        self._children = [child for child in self._children if child[0] != pid]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return WorkerError(f"a child ended with {f'signal {-code}' if code < 0 else f'exit status {code}'}")


def _end_with(parent: int) -> None:
    """Have this child end when its parent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _packed(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return _LENGTH.pack(len(text)) + text


def _receive(channel: socket.socket) -> Any:
    """One message; None where the other end is gone."""
    head = _exactly(channel, _LENGTH.size)
    text = _exactly(channel, _LENGTH.unpack(head)[0]) if head else b""
    return json.loads(text) if text else None


def _exactly(channel: socket.socket, size: int) -> bytes:
    kept = bytearray()
    while len(kept) < size:
        chunk = channel.recv(min(size - len(kept), 1 << 20))
        if not chunk:
            return b""
        kept += chunk
    return bytes(kept)
