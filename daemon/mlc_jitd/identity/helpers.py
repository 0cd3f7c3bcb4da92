"""Run one helper script in a toolchain's interpreter: JSON in, JSON out, within a time limit, nothing left behind."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from mlc_jitd.toolchains.base import shortened

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 4096
_MAX_ANSWER_BYTES = 16 << 20


_END_SECONDS = 5.0
"""For so long a process that ends waits for a helper that is being started, to end it too."""


class _Running:
    """The helpers of this process: from its start on, each is known to whoever ends them all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.helpers: set[subprocess.Popen[bytes]] = set()
        self.ended = False


_running = _Running()


class HelperError(Exception):
    """A helper gave no answer; the text says why in one sentence."""


class HelperTimeoutError(HelperError):
    """It gave none within its time."""


def ask(
    python: str, script: Path, question: object, *, env: tuple[tuple[str, str], ...], seconds: float
) -> dict[str, Any]:
    """The JSON object that a script prints.

    Args:
        python: The interpreter, absolute.
        script: Run with ``-P``, in ``/``, in a session of its own.
        question: Given to it on stdin as JSON.
        env: Its whole environment.
        seconds: After this the whole process group is killed.

    Raises:
        HelperTimeoutError: It took too long.
        HelperError: It did not start, failed, or printed something else.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(question).encode())
        stdin.seek(0)
        with _running.lock:
            if _running.ended:
                raise HelperError(f"{python} is not started: this process ends")
            try:
                process = subprocess.Popen(
                    [python, "-P", str(script)],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    cwd="/",
                    env=dict(env),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise HelperError(f"{python} could not be started: {error}") from error
            _running.helpers.add(process)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise HelperTimeoutError(f"{python} gave no answer within {seconds:g} s") from error
        finally:
            _running.helpers.discard(process)
            _end(process)
        if status != 0:
            how = f"was ended by {_signal(-status)}" if status < 0 else f"ended with exit status {status}"
            raise HelperError(f"{python} {how}{_last_words(stderr)}")
        stdout.seek(0)
        try:
            answer = json.loads(stdout.read(_MAX_ANSWER_BYTES))
        except (ValueError, RecursionError) as error:
            raise HelperError(f"{python} printed something else than an answer{_last_words(stderr)}") from error
    if not isinstance(answer, dict):
        raise HelperError(f"{python} printed something else than an answer")
    return answer


def end_all() -> None:
    """Kill the helpers that run, because nobody needs an answer any more: whoever waits for one gets an error."""
    for process in list(_running.helpers):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end_with_process() -> None:
    """A thread that waits for a helper, or starts one, does not keep its process from ending."""
    if _running.lock.acquire(timeout=_END_SECONDS):
        _running.ended = True
        _running.lock.release()
    end_all()


def _forget() -> None:
    """In a forked child: the helpers are its parent's, and the lock may be held by a thread that stayed there."""
    global _running  # noqa: PLW0603 - one for each process
    _running = _Running()


atexit.register(_end_with_process)
os.register_at_fork(after_in_child=_forget)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the helper, where it still runs, and what it started and left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(stderr: Any) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = [line.strip() for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; its last words: {shortened(lines[-1], 300)}" if lines else ""
