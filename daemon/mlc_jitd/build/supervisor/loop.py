"""The life of one job: start it, pump its output, sample its memory, keep its limits, obey, and leave nobody behind.

One thread, one poll. The job is over when the kernel says that this process has no children left: as a subreaper it is
the parent of every orphan, so no child means no descendant.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import time

from . import child, kernel, tree
from .lines import LineTap
from .log import BoundedLog
from .wire import Report, read_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Job

_SAMPLE = 0.5
_SIGN_OF_LIFE = 10.0  # nothing new is told so often, far below the runner's SUPERVISOR_SILENCE: each wakes the daemon
_GROWTH = 1 << 20  # of the peak, that is worth telling before the end
_CHUNK = 1024 * 1024
_LEFTOVER_GRACE = 1.0  # what outlives the command: time for multiprocessing's tracker to tidy up, not more
_KILL_AGAIN = 0.02
_KILL_PATIENCE = 10.0  # a process of another user, or one stuck in the kernel, can't be waited for
_AUTOGROUP_NICE = {1: 10, 2: 7, 3: 5}  # by cores: about a tenth of a session's weight for each, as in `build.cgroup`
_AUTOGROUP_LEAST, _AUTOGROUP_MOST = 19, 4


class Supervision:
    """One job from start to report."""

    def __init__(self, job: Job, control: int, report: Report, wake: int, launch: child.Launch | None = None) -> None:
        self._job = job
        self._launch = launch
        self._report = report
        self._control = control
        self._orders = b""
        self._log = BoundedLog(job.log, job.log_bytes, job.id)
        self._tap = LineTap(job.line_rate, [mark.encode("utf-8", "surrogateescape") for mark in job.marks])
        self._wake = wake
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}

        self._verdict = ""
        self._detail: list[str] = []
        self._status: int | None = None  # of the command, as waitpid gives it
        self._alone = False
        self._killed = False
        self._kill_at: float | None = None
        self._give_up_at = math.inf
        self._kill_pause = _KILL_AGAIN

        self._news = b""
        self._failure = ""
        self._yielding: list[str] = []
        self._seen: list[list[int]] = []
        self._autogroups: set[int] = set()
        self._peak = self._told_peak = 0
        self._told_at = -math.inf
        self._kernel_kills = kernel.oom_kills()
        self._began = self._last_output = time.monotonic()
        self._sample_at = self._began + _SAMPLE
        self._session = os.getsid(0)
        self._ended = 0.0
        self._child: child.Child

    def run(self, orders: bytes = b"") -> None:
        """Everything, to the last event."""
        self._child = child.start(self._job, self._launch)
        self._watch(self._child.output, self._pump)
        self._watch(self._child.news, self._hear)
        self._watch(self._control, self._listen)
        self._watch(self._wake, self._drain_wake)
        self._obey(orders)
        while not self._alone and time.monotonic() < self._give_up_at:
            self._wait()
            self._reap()
            self._look_at_the_clock()
        self._finish()

    # Waiting

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _wait(self) -> None:
        if self._report.waiting:
            self._poll.register(self._report.fd, select.POLLOUT)
        pause = max(0.0, min(self._deadlines()) - time.monotonic())
        for fd, _ in self._poll.poll(math.ceil(pause * 1000)):
            handler = self._handlers.get(fd, self._report.flush)
            handler()
        if self._report.fd not in self._handlers and not self._report.waiting:
            self._forget_report()

    def _forget_report(self) -> None:
        try:
            self._poll.unregister(self._report.fd)
        except KeyError:
            return

    def _deadlines(self) -> list[float]:
        times = [self._sample_at]
        if self._kill_at is not None:
            times.append(self._kill_at)
        elif self._job.total is not None:
            times.append(self._began + self._job.total)
        if self._kill_at is None and self._job.silence is not None:
            times.append(self._last_output + self._job.silence)
        return times

    def _drain_wake(self) -> None:
        os.read(self._wake, 512)

    # What comes in

    def _pump(self) -> bool:
        try:
            chunk = os.read(self._child.output, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._unwatch(self._child.output)
            return False
        self._last_output = time.monotonic()
        self._log.write(chunk)
        self._tell(self._tap.feed(chunk, self._last_output))
        return True

    def _tell(self, lines: list[str]) -> None:
        if lines:
            self._report.event("lines", keep=False, lines=lines)

    def _hear(self) -> bool:
        try:
            text = os.read(self._child.news, 4096)
        except BlockingIOError:
            return False
        self._news += text
        if text:
            return True
        self._unwatch(self._child.news)
        for line in self._news.decode("utf-8", "replace").splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "held":
                self._yielding.append(rest)
            else:
                self._failure = child.explain(rest, self._job)
        if not self._failure:
            self._sample_at = time.monotonic()  # the first is due now: it lowers the session's autogroup
            self._report.event("started", pid=self._child.pid)
        return False

    def _listen(self) -> None:
        chunk = os.read(self._control, 4096)
        if chunk:
            self._obey(chunk)
        else:
            self._unwatch(self._control)
            self._end("orphaned", "the daemon went away", self._job.grace)

    def _obey(self, orders: bytes) -> None:
        self._orders += orders
        while b"\n" in self._orders:
            order, _, self._orders = self._orders.partition(b"\n")
            verb, _, reason = order.decode("ascii", "replace").partition(" ")
            if verb == "stop":
                self._end("cancelled", reason, self._job.grace)
            elif verb == "promote":
                self._job.background = False
                for process in tree.walk(os.getpid()):
                    kernel.leave_idle(process.pid)
                self._autogroups.clear()  # the next sample gives each session what somebody's compile has
                self._sample_at = time.monotonic()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._alone = kernel.LINUX or not tree.members(os.getpid(), self._child.pid)
                break
            if pid == 0:
                break
            if pid == self._child.pid:
                self._status = status
                self._ended = time.monotonic()
        if self._status is not None and not self._alone:
            self._end("", "", min(self._job.grace, _LEFTOVER_GRACE))

    # Limits and the end

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        job = self._job
        if job.total is not None and now >= self._began + job.total:
            self._end("timed-out", f"ran longer than {job.total:g} s", job.grace)
        if job.silence is not None and now >= self._last_output + job.silence:
            self._end("silent", f"printed nothing for {job.silence:g} s", job.grace)
        if now >= self._sample_at:
            self._sample()
            self._sample_at = time.monotonic() + _SAMPLE
        if self._kill_at is not None and now >= self._kill_at and not self._alone:
            self._kill()

    def _end(self, verdict: str, detail: str, grace: float) -> None:
        """Begin to end the tree, or shorten the grace of an end that has begun. The first verdict stays."""
        now = time.monotonic()
        if verdict and not self._verdict and self._status is None and self._kill_at is None:
            self._verdict = verdict
            self._detail.append(detail)
        if self._kill_at is None:
            self._kill_at = now + grace
            if grace > 0:
                tree.send(tree.members(os.getpid(), self._child.pid), signal.SIGTERM, signal.SIGCONT)
        else:
            self._kill_at = min(self._kill_at, now + grace)

    def _kill(self) -> None:
        now = time.monotonic()
        if self._give_up_at == math.inf:
            self._give_up_at = now + _KILL_PATIENCE
        self._killed = True
        tree.send(tree.members(os.getpid(), self._child.pid), signal.SIGKILL)
        self._kill_at = now + self._kill_pause
        self._kill_pause = min(2 * self._kill_pause, _SAMPLE)

    def _sample(self) -> None:
        processes = tree.walk(os.getpid())
        rss = sum(process.rss for process in processes)
        self._peak = max(self._peak, rss)
        seen = sorted([process.pid, process.start, process.session] for process in processes)
        now = time.monotonic()
        if seen != self._seen or self._peak >= self._told_peak + _GROWTH or now >= self._told_at + _SIGN_OF_LIFE:
            self._report.event("sample", keep=False, rss=self._peak, tree=None if seen == self._seen else seen)
            self._seen, self._told_peak, self._told_at = seen, self._peak, now
        self._lower_autogroups(processes)
        limit = self._job.memory_bytes
        if limit is not None and rss > limit:
            held = tree.proportional(processes, rss)
            if held > limit:
                self._end("out-of-memory", f"its processes used {held:,} bytes of memory, the limit is {limit:,}", 0.0)

    def _lower_autogroups(self, processes: list[tree.Process]) -> None:
        nice = _AUTOGROUP_NICE.get(self._job.cores, _AUTOGROUP_MOST)
        if self._job.background:
            nice = _AUTOGROUP_LEAST
        for process in processes:
            if process.session in self._autogroups or process.session == self._session:
                continue
            if kernel.lower_autogroup(process.pid, nice):
                self._autogroups.add(process.session)

    # The report

    def _finish(self) -> None:
        while self._handlers.get(self._child.news) and self._hear():
            pass
        for _ in range(64):  # what a stranger who holds the pipe may still add is bounded
            if not self._handlers.get(self._child.output) or not self._pump():
                break
        self._tell(self._tap.rest())
        self._log.finish()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        groups = [folder for folder, _ in self._job.groups]
        largest = used.ru_maxrss * (1024 if kernel.LINUX else 1)
        # Its own groups are counted here, before the daemon removes them; ours may be another.
        kills = max(kernel.oom_kills() - self._kernel_kills, *map(kernel.oom_kills_in, groups), 0)
        status = self._judge(kills)
        if self._log.error:
            self._detail.append(f"the log is incomplete: {self._log.error}")
        if self._child.pid in self._autogroups:
            self._yielding.append("autogroup")
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        started = not self._failure
        self._report.event(
            "done",
            status=status,
            exit_status=code if started and code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            seconds=(self._ended or time.monotonic()) - self._began,
            cpu_seconds=used.ru_utime + used.ru_stime,
            peak_memory=max(self._peak, largest),
            oom_kills=kills,
            tail=self._log.tail.decode("utf-8", "replace"),
            log_truncated=self._log.left_out > 0,
            detail="; ".join(part for part in self._detail if part),
            yielding=self._yielding,
        )
        self._report.finish()

    def _judge(self, kernel_kills: int) -> str:
        if not self._alone:
            left = ", ".join(str(process.pid) for process in tree.members(os.getpid(), self._child.pid))
            self._detail.append(f"some of its processes could not be killed: {left}")
        if self._failure:
            self._detail.insert(0, self._failure)
            return "lost"
        if self._verdict:
            return "lost" if self._verdict == "orphaned" else self._verdict
        if self._status is None:
            return "lost"
        if not os.WIFSIGNALED(self._status):
            return "exited"
        signum = os.WTERMSIG(self._status)
        if signum == signal.SIGKILL and kernel_kills and not self._killed:
            self._detail.append("the kernel killed it for memory")
            return "out-of-memory"
        known = signum in set(signal.Signals)  # the real-time ones have no names
        self._detail.append(f"killed by {signal.Signals(signum).name if known else f'signal {signum}'}")
        return "signalled"


def main() -> None:
    """The supervisor of one command, in a process of its own."""
    serve(0, 1)


def serve(control: int, reporting: int, launch: child.Launch | None = None) -> None:
    """Read the job, run it, report, end the process. A fault of the supervisor's own is reported as ``broken``.

    Args:
        control: Where the job comes from; its end is the daemon's end.
        reporting: Where the report goes.
        launch: Instead of exec, see `child.start`.
    """
    report = Report(reporting)
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # orders come by the pipe; whoever ends the daemon ends us through it
    try:
        given = read_job(control)
        if given is None:
            return
        kernel.become_subreaper()
        Supervision(given[0], control, report, wake, launch).run(given[1])
    except Exception as error:  # noqa: BLE001  # whatever it is, the daemon must hear of it
        report.event("broken", detail=f"the supervisor failed: {error!r}")
        report.finish()
        os._exit(1)
    os._exit(0)  # nothing is buffered: the interpreter's tidying up would only cost time
