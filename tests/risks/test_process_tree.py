"""Risk: something of a compile outlives it. Trees that hide, and kill -9 of everybody who could have tidied up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.leftovers import below
from mlc_jitd.build import Limits, Outcome, StopSignal, run, runner
from mlc_jitd.build.supervisor import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tree is only held completely on Linux")

TOOLS = """
    import os, signal, subprocess, sys, time

    def note(name):  # a pid file that appears complete
        with open(name + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(name + ".new", name + ".pid")

    def daemonise(name, *, leave_pipe=False):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not leave_pipe:
                os.closerange(0, 3)
            note(name)
            time.sleep(1000)

    def wait_for(*names):
        while not all(os.path.exists(name + ".pid") for name in names):
            time.sleep(0.01)
"""

RUN_IN_CHILD = """
    import json, sys
    from dataclasses import dataclass
    from pathlib import Path
    from mlc_jitd.build import Limits, StopSignal, run

    @dataclass(frozen=True)
    class Command:
        argv: tuple
        env: tuple
        cwd: Path

    folder = Path(sys.argv[1])
    command = Command(tuple(sys.argv[2:]), (("PATH", "/usr/bin:/bin"),), folder)
    outcome = run(command, Limits(grace=0.5), log=folder / "job.log", on_line=print, stop=StopSignal())
    print(json.dumps([outcome.status, outcome.detail, outcome.oom_kills]))
"""


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: Path


def until(condition: Callable[[], object], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = StopSignal()
        self.lines: list[str] = []

    def argv(self, text: str) -> tuple[str, ...]:
        return (sys.executable, "-I", "-S", "-u", "-c", textwrap.dedent(TOOLS) + textwrap.dedent(text))

    def run(self, text: str, on_line: Callable[[str], None] | None = None, **limits: object) -> Outcome:
        command = Command(self.argv(text), (("PATH", "/usr/bin:/bin"),), self.folder)
        chosen = Limits(**{"grace": 0.5, **limits})
        return run(command, chosen, log=self.folder / "job.log", on_line=on_line or self.lines.append, stop=self.stop)

    def pids(self) -> list[int]:
        return [int(file.read_text()) for file in self.folder.glob("*.pid")]

    def assert_gone(self, count: int) -> None:
        """All noted processes existed and are gone, as zombies too."""
        assert len(self.pids()) == count
        until(lambda: not any(psutil.pid_exists(pid) for pid in self.pids()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    process = psutil.Process()
    before = (process.num_fds(), process.num_threads())
    made = Bench(tmp_path)
    yield made
    assert process.children() == []
    # A thread takes its time to go.
    until(lambda: process.num_fds() <= before[0] and process.num_threads() <= before[1])
    until(lambda: not any(psutil.pid_exists(pid) for pid in made.pids()))


def supervisor() -> psutil.Process:
    return next(iter(below(os.getpid(), "boot.py")))


def test_children_of_a_command_that_ends_are_ended(bench: Bench) -> None:
    outcome = bench.run("""
        for name in "ab":
            if os.fork() == 0:
                note(name)
                time.sleep(1000)
        wait_for("a", "b")
    """)
    assert outcome.succeeded
    bench.assert_gone(2)


def test_daemons_of_a_command_that_ends_are_ended(bench: Bench) -> None:
    outcome = bench.run("""
        daemonise("a")
        daemonise("b", leave_pipe=True)
        wait_for("a", "b")
        print("done")
        sys.exit(3)
    """)
    assert (outcome.status, outcome.exit_status, outcome.log_tail) == ("exited", 3, "done\n")
    bench.assert_gone(2)


def test_what_a_leftover_prints_while_it_ends_is_kept(bench: Bench) -> None:
    outcome = bench.run("""
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"tidied up\\n"), os._exit(0)))
            note("a")
            time.sleep(1000)
        wait_for("a")
        print("done")
    """)
    assert outcome.log_tail == "done\ntidied up\n"
    bench.assert_gone(1)


@pytest.mark.parametrize("how", ["total", "silence", "memory", "stop"])
def test_every_end_takes_the_whole_tree(bench: Bench, how: str) -> None:
    limits = {"total": {"total": 5.0}, "silence": {"silence": 5.0}, "memory": {"memory_bytes": 80 << 20}, "stop": {}}
    outcome = bench.run(
        f"""
        daemonise("a")
        daemonise("b", leave_pipe=True)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note("c")
            time.sleep(1000)
        note("d")
        wait_for("a", "b", "c", "d")
        print("ready")
        held = bytearray(b"x") * (200 << 20 if {how == "memory"} else 1)
        time.sleep(1000)
        """,
        on_line=lambda _: bench.stop.stop("cancelled") if how == "stop" else None,
        **limits[how],
    )
    expected = {"total": "timed-out", "silence": "silent", "memory": "out-of-memory", "stop": "cancelled"}
    assert outcome.status == expected[how]
    bench.assert_gone(4)


def test_a_tree_that_keeps_forking_is_ended(bench: Bench) -> None:
    outcome = bench.run(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:  # each lives for a moment and leaves a child that does the same
            if os.fork():
                time.sleep(0.02)
                os._exit(0)
            os.setsid()
        """,
    )
    assert outcome.succeeded


def test_kill_9_of_the_supervisor(bench: Bench) -> None:
    outcome = bench.run(
        """
        daemonise("a")
        if os.fork() == 0:
            note("b")
            time.sleep(1000)
        note("c")
        wait_for("a", "b", "c")
        print("ready")
        time.sleep(1000)
        """,
        on_line=lambda _: supervisor().kill(),
    )
    assert (outcome.status, outcome.detail) == ("lost", "its supervisor was killed")
    assert outcome.log_tail == "ready\n"
    bench.assert_gone(3)


def test_kill_9_of_the_supervisor_with_a_daemon_that_emptied_its_environment(bench: Bench) -> None:
    outcome = bench.run(
        """
        code = 'import os, time; open("a.pid", "w").write(str(os.getpid())); time.sleep(1000)'
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code], {})
        wait_for("a")
        time.sleep(1.2)  # two samples of the supervisor
        print("ready")
        time.sleep(1000)
        """,
        on_line=lambda _: supervisor().kill(),
    )
    assert outcome.status == "lost"
    bench.assert_gone(1)


def test_a_stopped_supervisor_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SUPERVISOR_SILENCE", 1.5)
    outcome = bench.run(
        """
        daemonise("a")
        note("b")
        wait_for("a", "b")
        print("ready")
        time.sleep(1000)
        """,
        on_line=lambda _: supervisor().suspend(),
    )
    assert outcome.status == "lost"
    assert "did nothing for 1.5 s" in outcome.detail
    bench.assert_gone(2)


def test_signals_that_only_mean_to_end_do_not_end_the_supervisor(bench: Bench) -> None:
    def annoy(_: str) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            supervisor().send_signal(signum)

    outcome = bench.run("print('ready'); time.sleep(0.3); sys.exit(4)", on_line=annoy)
    assert (outcome.status, outcome.exit_status) == ("exited", 4)


def test_kill_9_of_the_process_that_called_run(bench: Bench) -> None:
    script = bench.argv("""
        daemonise("a")
        daemonise("b", leave_pipe=True)
        note("c")
        wait_for("a", "b", "c")
        open("ready", "w").close()
        time.sleep(1000)
    """)
    caller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(RUN_IN_CHILD), str(bench.folder), *script])
    try:
        until((bench.folder / "ready").exists)
        tree_of_caller = psutil.Process(caller.pid).children(recursive=True)
        assert len(tree_of_caller) >= 4  # the supervisor, the three, and zombies that the script didn't wait for
    finally:
        caller.kill()
        caller.wait()
    bench.assert_gone(3)
    until(lambda: not any(process.is_running() for process in tree_of_caller))


def test_the_supervisor_waits_for_no_stranger_who_holds_the_pipe(bench: Bench) -> None:
    """A descriptor that left the tree (here: opened by this test) must not keep the job alive."""
    held: list[int] = []

    def grab(line: str) -> None:
        held.append(os.open(f"/proc/{line}/fd/1", os.O_WRONLY))

    outcome = bench.run("note('a'); print(os.getpid()); time.sleep(0.3)", on_line=grab)
    os.close(held[0])
    assert outcome.succeeded
    bench.assert_gone(1)


def test_many_jobs_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    outcomes: dict[int, Outcome] = {}
    benches = [Bench(tmp_path / str(number)) for number in range(8)]

    def work(number: int) -> None:
        bench = benches[number]
        bench.folder.mkdir()
        if number % 2:
            outcomes[number] = bench.run(
                "daemonise('a'); wait_for('a'); print('ready'); time.sleep(1000)",
                on_line=lambda _: bench.stop.stop("cancelled"),
            )
        else:
            outcomes[number] = bench.run(f"daemonise('a'); wait_for('a'); sys.exit({number})")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, bench in enumerate(benches):
        expected = ("cancelled", None) if number % 2 else ("exited", number)
        assert (outcomes[number].status, outcomes[number].exit_status) == expected
        bench.assert_gone(1)
    assert psutil.Process().children() == []


def small_memory_group() -> Path:
    name = f"mlc-jitd-test-{os.getpid()}"
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        if (Path(parent) / "cgroup.procs").exists():
            group = Path(parent) / name
            try:
                group.mkdir()
            except OSError:
                continue
            try:
                (group / limit).write_text(str(120 << 20))
            except OSError:
                group.rmdir()
                continue
            return group
    pytest.skip("no control group to be had")


def test_the_kernels_own_kill_for_memory_is_recognised(bench: Bench) -> None:
    group = small_memory_group()
    try:
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        eat = bench.argv("held = bytearray(b'x') * (400 << 20); time.sleep(1000)")
        done = subprocess.run(
            [sys.executable, "-c", join + textwrap.dedent(RUN_IN_CHILD), str(bench.folder), *eat],
            capture_output=True,
            text=True,
            check=True,
        )
        status, detail, kills = json.loads(done.stdout.splitlines()[-1])
        assert (status, detail) == ("out-of-memory", "the kernel killed it for memory")
        assert kills >= 1
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_scans_agree() -> None:
    """The cheap walk, the full scan and `ps` see the same children."""
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        own = os.getpid()
        until(lambda: b"sleep" in Path(f"/proc/{sleeper.pid}/cmdline").read_bytes())
        assert [process.pid for process in tree.walk(own)] == [sleeper.pid]
        assert [process.pid for process in tree.members(own, 0)][:1] == [sleeper.pid]
        by_ps = tree._snapshot_by_ps()
        assert [process.pid for process in tree.descendants(own, by_ps)] == [sleeper.pid]
        assert by_ps[sleeper.pid].session == sleeper.pid
        assert by_ps[sleeper.pid].rss > 0
    finally:
        sleeper.kill()
        sleeper.wait()
