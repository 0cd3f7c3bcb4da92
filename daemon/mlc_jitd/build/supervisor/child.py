"""Starts the command, and says why it could not be started.

Between fork and exec (in a warm compiler: the call that stands for it) the child makes its own session, ties its life
to the supervisor's, puts signals, umask and limits to what a program expects, and steps back behind everybody else's
work. The control group that was made for it is entered first, so that nothing the command does is outside of it.
"""

# ruff: noqa: PTH110, PTH112, PTH118, PTH123 -- importing pathlib costs each job's start 10 ms
from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal

from . import kernel
from .kernel import LINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .wire import Job

    Launch = Callable[[Job], NoReturn]

MARKER = "MLC_JITD_JOB"
"""The variable that names the job in the environment of each of its processes."""

_NICE = 10
_OOM_SCORE = 500
_UMASK = 0o022
_NOT_STARTED = 127
_LARGE_PIPE = 1024 * 1024
_OURS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)  # what `loop.serve` changed


class Child:
    """A command that is being started: its pid, its output, and a pipe that closes when exec has succeeded."""

    __slots__ = ("news", "output", "pid")

    def __init__(self, pid: int, output: int, news: int) -> None:
        self.pid = pid
        self.output = output
        self.news = news


def start(job: Job, launch: Launch | None = None) -> Child:
    """Fork and exec. The news pipe carries ``held NAME`` lines, then ``failed STEP ERRNO`` if exec did not happen.

    Args:
        job: What to run.
        launch: Called in the child instead of exec; it closes all descriptors that exec would close.
    """
    output, output_end = os.pipe()
    news, news_end = os.pipe()
    _widen(output)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(job, supervisor, output_end, news_end, launch)
    for fd in (output_end, news_end, *job.inherit):
        os.close(fd)
    os.set_blocking(output, False)
    os.set_blocking(news, False)
    return Child(pid, output, news)


def _widen(pipe: int) -> None:
    if LINUX:
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        except OSError:  # over the user's limit for pipes: slower in a flood, nothing else
            return


def _become(job: Job, supervisor: int, output: int, news: int, launch: Launch | None) -> NoReturn:
    step = "session"
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(_NOT_STARTED)
        held = [name for folder, names in job.groups if kernel.enter_group(folder) for name in names]
        step = "signals"
        signal.set_wakeup_fd(-1)
        # What a library set for itself when it was imported (TVM: SIGSEGV) is part of the command.
        for signum in _OURS if launch else signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "output"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.umask(_UMASK)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name in (*held, *_step_back(background=job.background)):
            os.write(news, b"held %s\n" % name.encode())
        step = "cwd"
        os.chdir(job.cwd)
        step = "exec"
        if launch is not None:
            launch(job)
        os.execvpe(job.argv[0], job.argv, {**job.env, MARKER: job.id})  # noqa: S606  # no shell is the point
    except OSError as error:
        os.write(news, b"failed %s %d\n" % (step.encode(), error.errno or 0))
    except BaseException as error:  # noqa: BLE001  # a forked child must never return into the supervisor's loop
        os.write(news, b"failed %s: %s\n" % (step.encode(), repr(error).encode()))
    finally:
        os._exit(_NOT_STARTED)


def _step_back(*, background: bool) -> list[str]:
    held = []
    try:
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        held.append("nice")
    except OSError:
        pass
    if LINUX:
        name, policy = ("sched-idle", os.SCHED_IDLE) if background else ("sched-batch", os.SCHED_BATCH)
        try:
            os.sched_setscheduler(0, policy, os.sched_param(0))
            held.append(name)
        except OSError:
            pass
    if kernel.lower_io_priority(background=background):
        held.append("ioprio")
    if kernel.raise_oom_score(_OOM_SCORE):
        held.append("oom-score")
    return held


def explain(failure: str, job: Job) -> str:
    """The sentence for a ``failed`` line of the news."""
    step, _, number = failure.partition(" ")
    if not number.isdigit():
        return f"cannot start the command: {failure}"
    reason = os.strerror(int(number))
    if step == "cwd":
        return f"cannot start the command in the folder {job.cwd!r}: {reason}"
    program = job.argv[0]
    sentence = f"cannot start {program!r}: {reason}"
    path = os.path.join(job.cwd, program)
    if step != "exec" or "/" not in program:
        return sentence
    if int(number) == errno.ENOENT and os.path.exists(path):
        return f"{sentence} (the file is there: its interpreter is not{_interpreter(path)})"
    if int(number) == errno.EACCES and os.path.isdir(path):
        return f"{sentence} (it is a folder)"
    return sentence


def _interpreter(path: str) -> str:
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except OSError:
        return ""
    return f": {first[2:].decode('utf-8', 'replace').strip()!r}" if first.startswith(b"#!") else ""
