"""A warm job is a job like any other; and which worker serves it, from when to when."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mlc_jitd.build import Kind, Limits, Outcome, StopSignal, WarmCompilers, run, warm
from mlc_jitd.toolchains.base import WARM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no warm compilers")

COMPILER = """
    import os, time
    imported_in = os.getpid()
    with open(os.path.join(os.path.dirname(__file__), "imports"), "a") as file:
        file.write(f"{imported_in}\\n")
"""


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: Path


@dataclass
class Shop:
    """Warm compilers whose compiler is ``slowcc``, a module, and whose jobs are scripts that use it."""

    bench: Bench
    pool: WarmCompilers
    free: list[int]
    lines: list[str] = field(default_factory=list)

    def worker(self, **env: str) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            argv = (sys.executable, "-P", str(WARM), "--import", "slowcc", "--path", str(self.bench.folder))
            return Command(argv, self._env(TMPDIR=str(folder), **env), folder)

        return make

    def _env(self, **env: str) -> tuple[tuple[str, str], ...]:
        given = {"PATH": "/usr/bin:/bin", "BUILD_TEST": str(self.bench.folder), "PYTHONUNBUFFERED": "1", **env}
        return tuple(given.items())

    def kind(self, place: object = "here", build: str = "1", *, holds: bool = True, **env: str) -> Kind:
        return Kind(place, build, self.worker(**env), lambda: holds)

    def command(self, text: str, *arguments: str, **env: str) -> Command:
        script = self.bench.folder / f"job-{threading.get_ident()}.py"
        script.write_text("import os, sys, time, slowcc\n" + textwrap.dedent(text))
        argv = (sys.executable, "-P", str(script), *arguments)
        return Command(argv, self._env(PYTHONPATH=str(self.bench.folder), **env), self.bench.folder)

    def run(
        self,
        text: str | Command,
        kind: Kind | None = None,
        *,
        stop: StopSignal | None = None,
        on_line: Callable[[str], None] | None = None,
        loading: Callable[[bool], None] = lambda _: None,
        **limits: Any,
    ) -> Outcome:
        return self.pool.run(
            self.command(text) if isinstance(text, str) else text,
            kind or self.kind(),
            Limits(**{"grace": 1.0, **limits}),
            log=self.bench.folder / f"job-{threading.get_ident()}.log",
            on_line=on_line or self.lines.append,
            stop=stop or StopSignal(),
            loading=loading,
        )

    def plain(self, text: str, **limits: Any) -> Outcome:
        command = self.command(text)
        return run(command, Limits(**limits), log=self.bench.log, on_line=self.lines.append, stop=StopSignal())

    def imports(self) -> list[int]:
        return [int(line) for line in (self.bench.folder / "imports").read_text().split()]

    def one(self) -> warm.Worker:
        (worker,) = self.pool.workers()
        return worker


@pytest.fixture
def make_shop(bench: Bench) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []
    (bench.folder / "slowcc.py").write_text(textwrap.dedent(COMPILER))

    def make(*, most: int = 2, idle: float = 600.0) -> Shop:
        free = [1 << 40]
        made.append(Shop(bench, WarmCompilers(most=most, idle=idle, memory_free=lambda: free[0]), free))
        return made[-1]

    yield make
    for shop in made:
        shop.pool.close()


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


def wait_until(condition: Callable[[], object], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_two_in_a_row_share_one_import(shop: Shop) -> None:
    first = shop.run("print('hello', slowcc.imported_in)")
    second = shop.run("print('again', slowcc.imported_in, os.getpid())")
    (importer,) = shop.imports()
    assert first.log_tail == f"hello {importer}\n"
    assert second.log_tail.startswith(f"again {importer} ")
    assert not second.log_tail.endswith(f" {importer}\n")
    assert (first.status, first.exit_status, first.log_truncated) == ("exited", 0, False)
    assert (shop.pool.counts.warm, shop.pool.counts.plain, shop.pool.counts.started) == (2, 0, 1)


def test_who_waits_for_an_import_is_told_so(shop: Shop) -> None:
    told: list[bool] = []
    assert shop.run("print('first')", loading=told.append).succeeded
    assert shop.run("print('second')", loading=told.append).succeeded
    assert told == [True, False]


def test_an_import_that_fails_is_no_loading_any_more(shop: Shop) -> None:
    (shop.bench.folder / "slowcc.py").write_text("raise ImportError('libtvm.so: cannot open')\n")
    told: list[bool] = []
    assert shop.run("pass", loading=told.append).exit_status == 1
    assert told == [True, False]


def test_two_at_once_from_one_worker(shop: Shop) -> None:
    meet = "open(sys.argv[1], 'w').close()\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.01)\nprint('met')"
    a, b = str(shop.bench.folder / "a"), str(shop.bench.folder / "b")
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(lambda pair: shop.run(shop.command(meet, *pair)), pair) for pair in ((a, b), (b, a))]
    assert [job.result().log_tail for job in jobs] == ["met\n", "met\n"]
    assert len(shop.imports()) == 1


@pytest.mark.parametrize(
    ("text", "status", "tail"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('no such target')", 1, "no such target\n"),
        ("print('half', end='')", 0, "half"),
        ("os._exit(9)", 9, ""),
    ],
)
def test_exit_statuses_are_those_of_python(shop: Shop, text: str, status: int, tail: str) -> None:
    outcome, plain = shop.run(text), shop.plain(text)
    assert (outcome.status, outcome.exit_status, outcome.log_tail) == ("exited", status, tail)
    assert (plain.status, plain.exit_status, plain.log_tail) == ("exited", status, tail)


def test_a_traceback_reads_like_pythons(shop: Shop) -> None:
    outcome = shop.run("def deep():\n    raise ValueError('unknown model')\ndeep()")
    assert outcome.exit_status == 1
    assert outcome.log_tail.startswith("Traceback (most recent call last):\n")
    assert outcome.log_tail.endswith("ValueError: unknown model\n")
    assert "warm.py" not in outcome.log_tail


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM", "SIGHUP"])
def test_signals(shop: Shop, name: str) -> None:
    outcome = shop.run(f"import signal; os.kill(os.getpid(), signal.{name}); time.sleep(9)")
    assert (outcome.status, outcome.exit_status, outcome.signal) == ("signalled", None, getattr(signal, name))
    assert shop.run("print('next')").log_tail == "next\n"
    assert len(shop.imports()) == 1


@pytest.mark.parametrize(
    ("text", "limits", "status"),
    [
        ("time.sleep(1000)", {"total": 0.3}, "timed-out"),
        ("print('.'); time.sleep(1000)", {"silence": 0.3}, "silent"),
        ("x = bytearray(b'x') * (200 << 20); time.sleep(1000)", {"memory_bytes": 150 << 20}, "out-of-memory"),
    ],
)
def test_limits(shop: Shop, text: str, limits: dict[str, Any], status: str) -> None:
    family = """
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            time.sleep(1000)
    """
    outcome = shop.run(textwrap.dedent(family) + text, **limits)
    assert outcome.status == status
    wait_until(lambda: len(shop.bench.alive()) == 1)  # the worker
    assert shop.run("print('next')").succeeded


def test_who_ignores_sigterm_is_killed(shop: Shop) -> None:
    outcome = shop.run(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)", total=0.3, grace=0.3
    )
    assert (outcome.status, outcome.signal) == ("timed-out", signal.SIGKILL)


def test_cancel(shop: Shop) -> None:
    stop = StopSignal()
    outcome = shop.run("print('begun'); time.sleep(1000)", stop=stop, on_line=lambda _: stop.stop("cancelled"))
    assert (outcome.status, outcome.detail, outcome.signal) == ("cancelled", "cancelled", signal.SIGTERM)
    assert shop.run("print('next')").succeeded


def test_cancel_while_the_compiler_is_imported(shop: Shop) -> None:
    (shop.bench.folder / "slowcc.py").write_text("import time\ntime.sleep(1000)\n")
    stop = StopSignal()
    timer = threading.Timer(0.3, lambda: stop.stop("cancelled"))
    timer.start()
    outcome = shop.run("print('never')", stop=stop)
    timer.join()
    assert (outcome.status, outcome.detail) == ("cancelled", "cancelled before it was started")


def test_what_a_job_gets(shop: Shop) -> None:
    text = """
        import resource, signal, tempfile
        print(sorted(set(os.environ) - {"MLC_JITD_JOB", "LC_CTYPE"}), os.environ["ONLY_JOB"], os.environ["TMPDIR"])
        print(os.getcwd(), tempfile.gettempdir(), sys.argv[1:], __name__)
        print(sys.modules["__main__"].__file__ == sys.argv[0])
        print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1], os.read(0, 1))
        print(os.getsid(0) == os.getpgid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)))
        print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)])
        print(os.getpriority(os.PRIO_PROCESS, 0) >= 10, open("/proc/self/oom_score_adj").read().strip())
        print(os.environ["MLC_JITD_JOB"].encode() in open("/proc/self/environ", "rb").read())
    """
    scratch = shop.bench.folder / "scratch"
    scratch.mkdir()
    command = shop.command(text, "one", "two words", ONLY_JOB="yes", TMPDIR=str(scratch))
    outcome = shop.run(command, shop.kind(ONLY_WORKER="1"))
    plain = run(command, Limits(), log=shop.bench.log, on_line=shop.lines.append, stop=StopSignal())
    assert shop.pool.counts.warm == 1
    assert outcome.log_tail == plain.log_tail
    assert "ONLY_WORKER" not in outcome.log_tail
    # The session's autogroup is lowered from outside, a moment after the start: one of the two may have ended by then.
    assert set(outcome.yielding) - {"autogroup"} == set(plain.yielding) - {"autogroup"}


def test_a_module_is_run_as_python_runs_it(shop: Shop) -> None:
    package = shop.bench.folder / "slowpkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nfrom . import other\nprint(sys.argv, __name__, __package__)\n")
    (package / "other.py").touch()
    given = shop.command("")
    command = Command((sys.executable, "-P", "-m", "slowpkg", "compile", "--opt", "O2"), given.env, given.cwd)
    outcome = shop.run(command)
    plain = run(command, Limits(), log=shop.bench.log, on_line=shop.lines.append, stop=StopSignal())
    assert outcome.log_tail == plain.log_tail
    assert "slowpkg/__main__.py" in outcome.log_tail


def test_nothing_of_a_job_stays(shop: Shop) -> None:
    shop.run("slowcc.state = 1; sys.path.append('x'); os.environ['LEFT'] = '1'; os.chdir('/tmp')")
    assert shop.run("print(hasattr(slowcc, 'state'), 'x' in sys.path, 'LEFT' in os.environ)").log_tail == (
        "False False False\n"
    )


# Which worker, and from when to when


def test_other_variables_are_another_worker(shop: Shop) -> None:
    tell = "print(slowcc.imported_in)"
    said = [shop.run(tell, shop.kind(place)).log_tail for place in (("a", "1"), ("a", "2"), ("a", "1"))]
    assert said[0] == said[2] != said[1]


def test_a_new_build_is_a_new_worker_and_ends_the_old_one(shop: Shop) -> None:
    shop.run("pass", shop.kind(build="1"))
    old = shop.one()
    shop.run("pass", shop.kind(build="2"))
    new = shop.one()
    assert old is not new
    old.join()
    assert not psutil.pid_exists(old.pid)
    assert len(set(shop.imports())) == 2


def test_a_compiler_replaced_while_it_was_imported_serves_nobody(shop: Shop) -> None:
    assert shop.run("print('hello')", shop.kind(holds=False)).log_tail == "hello\n"
    assert (shop.pool.counts.warm, shop.pool.counts.plain) == (0, 1)
    assert shop.pool.workers() == []


def test_no_more_workers_than_allowed_and_the_idlest_goes(shop: Shop) -> None:
    for place in "abab":
        shop.run("pass", shop.kind(place))
    a, b = shop.pool.workers()
    shop.run("pass", shop.kind("c"))
    assert a not in shop.pool.workers()
    assert b in shop.pool.workers()
    assert shop.pool.counts.plain == 0


def test_a_busy_worker_is_not_ended_for_another(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(most=1)
    gate = shop.bench.folder / "gate"
    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(
            lambda: shop.run(shop.command("while not os.path.exists(sys.argv[1]): time.sleep(0.01)", str(gate)))
        )
        wait_until(lambda: shop.pool.workers() and shop.one().jobs)
        assert shop.run("print('other')", shop.kind("other")).log_tail == "other\n"
        assert shop.pool.counts.plain == 1
        gate.touch()
        assert held.result().succeeded
    assert shop.pool.counts.warm == 1


def test_idle_ones_end(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(idle=0.3)
    assert shop.run("print('hello')").succeeded
    worker = shop.one()
    wait_until(worker.gone)
    assert shop.pool.workers() == []
    assert shop.run("print('hello')").succeeded
    assert len(shop.imports()) == 2


def test_a_host_short_of_memory_gets_theirs(shop: Shop) -> None:
    shop.run("pass")
    shop.free[0] = 1 << 20
    shop.pool.look()
    assert shop.pool.workers() == []
    assert shop.run("print('plain')").log_tail == "plain\n"
    assert (shop.pool.counts.warm, shop.pool.counts.plain) == (1, 1)


def test_one_that_has_grown_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.run("pass")
    assert shop.one().baseline > 1 << 20
    shop.pool.look()
    assert len(shop.pool.workers()) == 1
    monkeypatch.setattr(warm, "GROWTH_BYTES", -1 << 30)
    shop.pool.look()
    assert shop.pool.workers() == []


def test_switched_off(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(most=0)
    assert shop.run("print('hello')").log_tail == "hello\n"
    assert shop.pool.counts.plain == 1
    assert shop.pool.workers() == []


# What can't be forked


def test_a_compiler_with_threads_is_run_plain(shop: Shop) -> None:
    threads = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    (shop.bench.folder / "slowcc.py").write_text(textwrap.dedent(COMPILER) + threads)
    assert shop.run("print('hello')").log_tail == "hello\n"
    assert shop.run("print('hello')").log_tail == "hello\n"
    assert (shop.pool.counts.warm, shop.pool.counts.plain, shop.pool.counts.started) == (0, 2, 1)


def test_a_thread_that_comes_later_is_seen(shop: Shop) -> None:
    later = """
        import signal, threading
        signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start())
    """
    (shop.bench.folder / "slowcc.py").write_text(textwrap.dedent(COMPILER) + textwrap.dedent(later))
    assert shop.run("print('warm')").succeeded
    os.kill(shop.one().pid, signal.SIGUSR1)
    wait_until(lambda: psutil.Process(shop.one().pid).num_threads() == 2)
    assert shop.run("print('plain')").log_tail == "plain\n"
    assert (shop.pool.counts.warm, shop.pool.counts.plain) == (1, 1)
    assert shop.pool.workers() == []


def test_an_open_gpu_is_seen(shop: Shop, tmp_path: Path) -> None:
    device = tmp_path / "nvidia0"
    device.touch()
    opened = f"held = open({str(device)!r})\nimport sys\nsys.modules['__main__'].GPUS = ({str(device)!r},)\n"
    (shop.bench.folder / "slowcc.py").write_text(textwrap.dedent(COMPILER) + opened)
    assert shop.run("print('hello')").log_tail == "hello\n"
    assert (shop.pool.counts.warm, shop.pool.counts.plain) == (0, 1)


def test_a_compiler_that_cannot_be_imported_is_the_plain_ways_to_tell(shop: Shop) -> None:
    (shop.bench.folder / "slowcc.py").write_text("raise ImportError('libtvm.so: cannot open')\n")
    outcome = shop.run("print('never')")
    assert (outcome.exit_status, shop.pool.counts.plain) == (1, 1)
    assert outcome.log_tail.endswith("ImportError: libtvm.so: cannot open\n")
    assert shop.run("pass").exit_status == 1
    assert shop.pool.counts.started == 1  # it is not tried again each time
    counted = shop.pool.counters()
    assert (counted["plain_compiles"], counted["warm_unfit"], counted["warm_workers"]) == (2, 1, 0)


def test_a_worker_that_hangs_is_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlc_jitd.build.warm_worker.FORK_SECONDS", 0.3)
    shop.run("pass")
    worker = shop.one()
    os.kill(worker.pid, signal.SIGSTOP)
    assert shop.run("print('plain')").log_tail == "plain\n"
    worker.join()
    assert not psutil.pid_exists(worker.pid)


# Endurance


@pytest.mark.timeout(120)
def test_two_hundred_jobs_leave_a_worker_as_it_was(shop: Shop) -> None:
    stopwatch = []
    command = shop.command("")
    for _ in range(20):
        assert shop.run(command).succeeded
    worker, own = psutil.Process(shop.one().pid), psutil.Process()
    wait_until(lambda: not worker.children())

    def size() -> int:
        return int(worker.memory_full_info().uss) + int(worker.memory_info().rss)

    before, descriptors, ours, threads = size(), worker.num_fds(), own.num_fds(), own.num_threads()
    for _ in range(200):
        began = time.perf_counter()
        assert shop.run(command).succeeded
        stopwatch.append(time.perf_counter() - began)
    wait_until(lambda: not worker.children())
    wait_until(lambda: (worker.num_fds(), own.num_fds()) == (descriptors, ours) and own.num_threads() <= threads)
    grown = size() - before
    assert grown < 2 << 20  # both figures, 200 jobs: less than 1 MiB per 100
    stopwatch.sort()
    print(f"one empty warm job: p50 {stopwatch[100] * 1e3:.1f} ms, p95 {stopwatch[190] * 1e3:.1f} ms; {grown} bytes")
