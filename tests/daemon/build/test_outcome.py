"""How a command ends, and what the outcome says of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from mlc_jitd import build
from mlc_jitd.build import Limits, StopSignal
from mlc_jitd.build.supervisor import tree

if TYPE_CHECKING:
    from conftest import Bench
    from mlc_jitd.build import StopReason


def test_all_is_sorted_and_complete() -> None:
    assert build.__all__ == sorted(build.__all__)
    assert all(hasattr(build, name) for name in build.__all__)


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exit_status(bench: Bench, status: int) -> None:
    outcome = bench.run(bench.command("sh", "-c", f"echo hello; exit {status}"))
    assert (outcome.status, outcome.exit_status, outcome.signal) == ("exited", status, None)
    assert outcome.succeeded == (status == 0)
    assert outcome.log_tail == "hello\n"
    assert outcome.log_path.read_text() == "hello\n"
    assert bench.lines == ["hello"]
    assert not outcome.log_truncated


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM", "SIGHUP", "SIGPIPE"])
def test_signal(bench: Bench, name: str) -> None:
    outcome = bench.run(bench.command("sh", "-c", f"kill -{name[3:]} $$"))
    assert (outcome.status, outcome.exit_status) == ("signalled", None)
    assert outcome.signal == getattr(signal, name)
    assert name in outcome.detail
    assert list(bench.folder.glob("core*")) == []


def test_signal_without_a_name(bench: Bench) -> None:
    outcome = bench.run(bench.script("import os; os.kill(os.getpid(), 40)"))
    assert (outcome.status, outcome.signal, outcome.detail) == ("signalled", 40, "killed by signal 40")


def test_no_such_program(bench: Bench) -> None:
    outcome = bench.run(bench.command("/no/such/python", "-c", ""))
    assert (outcome.status, outcome.exit_status) == ("lost", None)
    assert outcome.detail == "cannot start '/no/such/python': No such file or directory"


def test_no_such_interpreter(bench: Bench) -> None:
    script = bench.folder / "compile"
    script.write_text("#!/no/such/python -x\n")
    script.chmod(0o755)
    outcome = bench.run(bench.command(str(script)))
    assert outcome.status == "lost"
    assert "its interpreter is not: '/no/such/python -x'" in outcome.detail


def test_not_executable(bench: Bench) -> None:
    (bench.folder / "plain").write_text("hello")
    assert "Permission denied" in bench.run(bench.command("./plain")).detail
    assert "it is a folder" in bench.run(bench.command(str(bench.folder))).detail


def test_argument_that_no_exec_can_carry(bench: Bench) -> None:
    outcome = bench.run(bench.command("true", "a\0b"))
    assert outcome.status == "lost"
    assert "null byte" in outcome.detail


def test_no_such_folder(bench: Bench) -> None:
    outcome = bench.run(bench.command("true", cwd=bench.folder / "gone"))
    assert outcome.status == "lost"
    assert "in the folder" in outcome.detail


def test_program_without_slash_is_looked_up_in_the_given_path(bench: Bench) -> None:
    tool = bench.folder / "only-here"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert bench.run(bench.command("only-here", env={"PATH": f"{bench.folder}:/bin"})).log_tail == "found\n"


def test_environment_is_exactly_what_was_given(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED", "1")
    outcome = bench.run(bench.command("/usr/bin/env", env={"NAME": "w\u00e4rt\udcff"}))
    names = dict(
        line.split("=", 1) for line in outcome.log_path.read_bytes().decode("utf-8", "surrogateescape").split()
    )
    assert names.pop("MLC_JITD_JOB")
    assert names == {"PATH": "/usr/bin:/bin", "BUILD_TEST": str(bench.folder), "NAME": "w\u00e4rt\udcff"}


def test_what_the_child_inherits(bench: Bench) -> None:
    held_by_daemon = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held_by_daemon, True)
    try:
        outcome = bench.run(
            bench.script("""
                import os, resource, signal
                print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1], os.read(0, 1))
                print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE), os.getcwd())
                print(os.getsid(0) == os.getpgid(0) == os.getpid())
                status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines()[20:])
                print(status["SigBlk"], int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24))
            """)
        )
    finally:
        os.close(held_by_daemon)
    assert outcome.log_tail.splitlines() == [
        "[0, 1, 2] b''",
        f"0o22 (0, 0) {bench.folder}",
        "True",
        "0000000000000000 0",
    ]


@pytest.mark.parametrize(
    ("background", "cores", "policy", "session"),
    [
        (False, 1, "sched-batch", 10),
        (False, 2, "sched-batch", 7),
        (False, 8, "sched-batch", 4),
        (True, 2, "sched-idle", 19),
    ],
)
def test_steps_back(bench: Bench, background: bool, cores: int, policy: str, session: int) -> None:
    outcome = bench.run(
        bench.script("""
            import os, pathlib, time
            print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), open("/proc/self/oom_score_adj").read())
            while "nice 0" in open("/proc/self/autogroup").read():
                time.sleep(0.01)
            print(open("/proc/self/autogroup").read())
        """),
        background=background,
        cores=cores,
        total=5.0,
    )
    assert {"nice", policy, "ioprio", "oom-score"} <= set(outcome.yielding)
    nice, number, score = outcome.log_tail.split()[:3]
    assert int(nice) >= 10
    assert int(number) == (os.SCHED_IDLE if background else os.SCHED_BATCH)
    assert int(score) >= 500
    if outcome.status == "exited":  # else a kernel without autogroups
        assert "autogroup" in outcome.yielding
        assert outcome.log_tail.rstrip().endswith(f"nice {session}")


def test_a_job_that_somebody_has_come_to_wait_for_leaves_the_background(bench: Bench) -> None:
    def told(line: str) -> None:
        if line == "idle":
            bench.stop.promote()

    outcome = bench.run(
        bench.script("""
            import os, time
            assert os.sched_getscheduler(0) == os.SCHED_IDLE
            while "nice 0" in open("/proc/self/autogroup").read():
                time.sleep(0.01)
            print("idle", flush=True)
            while "nice 7" not in open("/proc/self/autogroup").read():
                time.sleep(0.01)
            print(os.sched_getscheduler(0), os.getuid())
        """),
        told,
        background=True,
        cores=2,
        total=8.0,
    )
    if outcome.status == "exited":  # else a kernel without autogroups
        policy, uid = map(int, outcome.log_tail.split()[-2:])
        assert policy == os.SCHED_BATCH or uid
    else:
        assert "idle" not in outcome.log_tail


def test_total_limit(bench: Bench) -> None:
    outcome = bench.run(bench.command("sleep", "1000"), total=0.3)
    assert (outcome.status, outcome.signal) == ("timed-out", signal.SIGTERM)
    assert "longer than 0.3 s" in outcome.detail
    assert 0.3 <= outcome.seconds < 5


def test_silence_limit_counts_from_the_last_byte(bench: Bench) -> None:
    outcome = bench.run(
        bench.script("""
            import time
            for _ in range(8):
                print(".", end="", flush=True)
                time.sleep(0.1)
            time.sleep(1000)
        """),
        silence=0.5,
    )
    assert outcome.status == "silent"
    assert outcome.log_tail == "........"
    assert outcome.seconds >= 1.2


def test_output_closed_is_silence_too(bench: Bench) -> None:
    outcome = bench.run(bench.command("sh", "-c", "exec >&- 2>&-; sleep 1000"), silence=0.3)
    assert outcome.status == "silent"


def test_output_closed_but_work_goes_on(bench: Bench) -> None:
    outcome = bench.run(bench.command("sh", "-c", "echo one; exec >&- 2>&-; sleep 0.3; exit 3"))
    assert (outcome.status, outcome.exit_status, outcome.log_tail) == ("exited", 3, "one\n")


def test_ignoring_sigterm_costs_the_grace(bench: Bench) -> None:
    outcome = bench.run(
        bench.command("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"), total=0.3, grace=0.4
    )
    assert (outcome.status, outcome.signal) == ("timed-out", signal.SIGKILL)
    assert 0.7 <= outcome.seconds < 5


def test_a_stopped_process_is_ended(bench: Bench) -> None:
    outcome = bench.run(bench.command("sh", "-c", "kill -STOP $$"), total=0.3)
    assert (outcome.status, outcome.signal) == ("timed-out", signal.SIGTERM)


def test_memory_limit(bench: Bench) -> None:
    outcome = bench.run(
        bench.script("""
            import subprocess, sys, time
            eat = "import time; held = bytearray(b'x') * (60 << 20); time.sleep(1000)"
            both = [subprocess.Popen([sys.executable, "-I", "-S", "-c", eat]) for _ in range(2)]
            time.sleep(1000)
        """),
        memory_bytes=100 << 20,
    )
    assert outcome.status == "out-of-memory"
    assert outcome.peak_memory > 100 << 20
    assert "the limit is 104,857,600" in outcome.detail


def test_pages_that_a_job_shares_with_its_children_count_once(bench: Bench) -> None:
    seen = []

    def look(_: str) -> None:
        processes = tree.walk(bench.supervisor().pid)
        seen.append((len(processes), sum(each.rss for each in processes), tree.proportional(processes, 0)))
        bench.stop.stop("cancelled")

    bench.run(
        bench.script("""
            import os, signal
            held = bytearray(b"x") * (60 << 20)
            if all(os.fork() for _ in range(3)):
                print("three children")
            signal.pause()
        """),
        look,
    )
    ((count, rss, held),) = seen
    assert count == 4
    assert rss > 180 << 20
    assert 60 << 20 < held < 120 << 20


def test_peak_memory_and_cpu_time(bench: Bench) -> None:
    outcome = bench.run(bench.script("held = bytearray(b'x') * (50 << 20)\nfor _ in range(3_000_000): pass"))
    assert 50 << 20 < outcome.peak_memory < 100 << 20
    assert 0.01 < outcome.cpu_seconds < 10


@pytest.mark.parametrize("reason", ["cancelled", "draining"])
def test_stop(bench: Bench, reason: StopReason) -> None:
    begun = threading.Event()
    stopper = threading.Thread(target=lambda: (begun.wait(), bench.stop.stop(reason)))
    stopper.start()
    outcome = bench.run(bench.command("sh", "-c", "echo begun; exec sleep 1000"), on_line=lambda _: begun.set())
    stopper.join()
    assert (outcome.status, outcome.detail, outcome.signal) == ("cancelled", reason, signal.SIGTERM)


def test_stop_before_the_start(bench: Bench) -> None:
    bench.stop.stop("draining")
    bench.stop.stop("cancelled")
    outcome = bench.run(bench.command("touch", "started"))
    assert (outcome.status, outcome.detail) == ("cancelled", "draining before it was started")
    assert list(bench.folder.iterdir()) == []


def test_one_signal_belongs_to_one_job() -> None:
    stop = StopSignal()
    stop.attach(lambda: None)
    with pytest.raises(RuntimeError, match="already belongs"):
        stop.attach(lambda: None)


def test_a_failing_callback_ends_the_tree_and_comes_out(bench: Bench) -> None:
    def fail(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="begun"):
        bench.run(bench.command("sh", "-c", "echo begun; exec sleep 1000"), on_line=fail)


def test_a_slow_callback_delays_nobody_else(bench: Bench) -> None:
    def dawdle(_: str) -> None:
        time.sleep(0.05)

    outcome = bench.run(bench.command("sh", "-c", "seq 200000; echo done > finished"), on_line=dawdle)
    assert outcome.status == "exited"
    assert outcome.seconds < 5


@pytest.mark.timeout(60)
def test_two_hundred_runs_leave_descriptors_and_threads_flat(bench: Bench) -> None:
    command = bench.command("true")
    bench.run(command)
    process = psutil.Process()
    before = (process.num_fds(), process.num_threads())
    took = []
    for _ in range(200):
        bench.stop = StopSignal()
        began = time.perf_counter()
        assert bench.run(command).succeeded
        took.append(time.perf_counter() - began)
    assert (process.num_fds(), process.num_threads()) == before
    assert process.children() == []
    took.sort()
    print(f"one trivial run: p50 {took[100] * 1e3:.1f} ms, p95 {took[190] * 1e3:.1f} ms")


@pytest.mark.parametrize(
    "wrong", [{"total": 0}, {"silence": -1.0}, {"memory_bytes": 0}, {"log_bytes": 100}, {"grace": -1.0}]
)
def test_limits_refuse_mistakes(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)
