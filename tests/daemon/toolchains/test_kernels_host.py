"""What of the kernels' way needs no TVM: the command, the log, the report, groups, workers, the self-check."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlc_jitd.toolchains import Command, Stage, kernels
from mlc_jitd.toolchains.kernels import KernelReport
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import groups, selfcheck, workers

linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")


def test_a_command_is_launched_with_pools_of_one_thread(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], __name__, sys.path[0])")
    command = Command(
        (sys.executable, "-P", str(script), "a", "--", "-b"),
        (("OMP_NUM_THREADS", "8"), ("MAX_JOBS", "8"), ("PATH", os.defpath)),
        tmp_path,
    )
    (tmp_path / "new").mkdir()
    ours = kernels.accelerated(command, store=tmp_path, new=tmp_path / "new", identity="x", workers=2)
    assert dict(ours.env)["MAX_JOBS"] == "8", "that is for programs that a compile starts"
    bare = {**dict(ours.env), "PYTHONPATH": str(tmp_path)}
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").touch()
    done = subprocess.run(ours.argv, env=bare, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("['a', '--', '-b'] 1 __main__")
    assert "inside" not in done.stdout, "the compiler's own path is untouched"
    assert done.stderr.splitlines() == ["mlc-jitd kernels: plain: TVM without a version is not one of 0.26.x, 0.27.x"]
    report = kernels.read_report(tmp_path / "new")
    assert (report.way, report.failures) == ("plain", 0)


def test_what_a_compile_says_and_its_exit_status_pass_through(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    package = tmp_path / "compiler"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print(sys.argv); raise SystemExit(7)")
    command = Command((sys.executable, "-P", "-m", "compiler", "x"), (("PYTHONPATH", str(tmp_path)),), tmp_path)
    ours = kernels.accelerated(command, store=tmp_path, new=tmp_path / "new", identity="x", workers=2)
    done = subprocess.run(ours.argv, env=dict(ours.env), capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout.strip() == f"['{package / '__main__.py'}', 'x']"


def test_progress_lines_are_a_stage() -> None:
    assert kernels.stage("mlc-jitd kernels: 23/66, 40 reused") == Stage("kernels", "23/66, 40 reused")
    assert kernels.stage("mlc-jitd kernels: plain: because") is None
    assert kernels.stage("[2026] INFO compile.py:7: 23/66") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"way": "magic"}', '{"made": [1]}', '{"saved": "x"}', "\0" * 99])
def test_a_report_that_is_none_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert kernels.read_report(tmp_path) == KernelReport()
    assert kernels.read_report(tmp_path / "nowhere") == KernelReport()


def test_functions_that_name_each_other_stay_together() -> None:
    names = {
        "a": frozenset({"helper", "float32"}),
        "b": frozenset({"T_helper2"}),
        "c": frozenset({"nobody"}),
        "d": frozenset({"helper"}),
        "helper": frozenset({"helper2"}),
        "helper2": frozenset(),
    }
    found = groups.groups(names, {**{name: name for name in names}, "T_helper2": "helper2"})
    assert found == [("a", "b", "d", "helper", "helper2"), ("c",)]


def test_light_groups_share_modules_and_heavy_ones_do_not() -> None:
    names = ["matmul", "matmul1", "a", "reshape", "reshape1", "reshape17", "shape_func", "shape_func3"]
    weights = {name: groups.LIGHT if name == "matmul" else 100 for name in names} | {"a": groups.LIGHT - 100}
    found = groups.bundles([("matmul",), ("a", "matmul1"), *[(name,) for name in names[3:]]], weights)
    assert found[:2] == [("matmul",), ("a", "matmul1")], "a group is as heavy as all that is in it"
    assert found[2:] == [("shape_func", "shape_func3"), ("reshape", "reshape1", "reshape17")]
    assert groups.bundles([("shape_func",), ("a",)], {"shape_func": 1, "a": 1}) == [("shape_func",), ("a",)]


LIGHT_ONES = [f"{letter * 2}{number or ''}" for letter in "abcdefghijklmnopqrstuvwxyz" for number in range(4)]


@pytest.mark.parametrize("weight", [1, 40, 300, groups.LIGHT - 1])
@pytest.mark.parametrize("another", ["another", "zz17", "aa99"])
def test_one_that_comes_concerns_one_module_and_none_is_heavy(weight: int, another: str) -> None:
    weights = dict.fromkeys([*LIGHT_ONES, another], weight)
    before = groups.bundles([(name,) for name in LIGHT_ONES], weights)
    assert all(len(bundle) * weight <= groups.MODULE for bundle in before)
    after = groups.bundles([(name,) for name in [another, *reversed(LIGHT_ONES)]], weights)
    assert sorted(name for bundle in after for name in bundle) == sorted([*LIGHT_ONES, another])
    assert len(set(before) - set(after)) <= 1, "one that there was is another one, or is halved"
    one_family = [f"reshape{number}" for number in range(100)]
    halved = groups.bundles([(name,) for name in one_family], dict.fromkeys(one_family, weight))
    assert all(len(bundle) * weight <= groups.MODULE for bundle in halved)
    assert sum(map(len, halved)) == 100


def test_what_may_share_a_module_is_lowered_by_one_process() -> None:
    names = ["matmul", "matmul1", "a", "softmax", "reshape", "reshape1", "shape_func"]
    found = groups.units(names)
    assert sorted(name for unit in found for name in unit) == sorted(names)
    assert ["shape_func"] in found
    assert all("matmul1" in unit for unit in found if "matmul" in unit)
    many = groups.units(LIGHT_ONES)
    assert 4 < len(many) <= 1 << groups.UNITS
    assert sorted(name for unit in many for name in unit) == LIGHT_ONES


@pytest.fixture
def forkable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parallel test run has a thread of its own, with nothing in it that a child of these tests could miss."""
    monkeypatch.setattr(workers, "unforkable", lambda: "")


@linux
def test_every_question_is_answered_once_by_whoever_is_free(forkable: None) -> None:
    told: dict[int, int] = {}
    with workers.Crew(3, lambda number: (number * 2, os.getpid())) as crew:
        left = list(range(600))
        crew.hand_out(lambda _: left.pop() if left else None, lambda number, answer: told.update({number: answer[0]}))
        pids = {answer[1] for answer in crew.ask([1, 2, 3])}
    assert told == {number: number * 2 for number in range(600)}
    assert len(pids) == 3
    assert os.getpid() not in pids


@linux
def test_a_long_one_holds_up_nobody_and_each_is_offered_what_is_his(tmp_path: Path, forkable: None) -> None:
    def answer(number: int) -> int:
        while number == 9 and len(list(tmp_path.iterdir())) < 9:  # until the other child has done all the rest
            time.sleep(0.01)
        (tmp_path / str(number)).touch()
        return os.getpid()

    order: list[int] = []
    left = [*range(8, -1, -1), 9]
    by: dict[int, set[int]] = {}
    given: dict[int, int] = {}

    def choose(member: int) -> int | None:
        if left:
            given[left[-1]] = member
        return left.pop() if left else None

    def done(number: int, pid: int) -> None:
        order.append(number)
        by.setdefault(given[number], set()).add(pid)

    with workers.Crew(2, answer) as crew:
        crew.hand_out(choose, done)
    assert order == [*range(9), 9]
    assert sorted(map(len, by.values())) == [1, 1], "a number means one child"


@linux
def test_what_is_large_goes_both_ways(forkable: None) -> None:
    text = "ö" * 3_000_000
    with workers.Crew(2, lambda question: question[::-1]) as crew:
        assert crew.ask([text + "1", text + "2"]) == ["1" + text, "2" + text]


@linux
def test_a_child_remembers(forkable: None) -> None:
    seen: list[int] = []

    def answer(number: int) -> list[int]:
        seen.append(number)
        return seen

    with workers.Crew(2, answer) as crew:
        crew.ask([1, 2])
        assert crew.ask([3, 4]) == [[1, 3], [2, 4]]
    assert seen == []


@linux
@pytest.mark.parametrize("way", ["asked", "handed out"])
@pytest.mark.parametrize("how", ["killed", "raised", "exited"])
def test_a_child_that_fails_is_an_error_and_leaves_nobody(how: str, way: str, forkable: None) -> None:
    def answer(number: int) -> bool:
        if number == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "exited":
                os._exit(3)
            raise ValueError("no")
        return True

    said = {"killed": "signal 9", "exited": "exit status 3", "raised": "exit status 1"}[how]
    left = list(range(10))

    def try_it() -> None:
        with workers.Crew(2, answer) as crew:
            if way == "asked":
                crew.ask([0, 1])
            else:
                crew.hand_out(lambda _: left.pop() if left else None, lambda *_: None)

    with pytest.raises(workers.WorkerError, match=said):
        try_it()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
def test_an_error_that_is_meant_for_the_asker_is_raised_there_and_ends_nobody(forkable: None) -> None:
    def answer(number: int) -> int:
        if number:
            raise KeyError(f"no {number}")
        return os.getpid()

    with workers.Crew(1, answer, (KeyError,)) as crew:
        (before,) = crew.ask([0])
        with pytest.raises(KeyError, match="no 7"):
            crew.ask([7])
        assert crew.ask([0]) == [before]


@linux
def test_a_busy_child_is_ended_with_its_crew(forkable: None) -> None:
    def done(*_: object) -> None:
        raise RuntimeError("enough")

    def try_it() -> None:
        left = [0, 600]
        with workers.Crew(2, time.sleep) as crew:
            crew.hand_out(lambda _: left.pop() if left else None, done)

    with pytest.raises(RuntimeError, match="enough"):
        try_it()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
def test_where_no_more_can_be_forked_those_there_are_do_it(forkable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own, most = os.fork, 2

    def fork() -> int:
        nonlocal most
        most -= 1
        if most < 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return own()

    monkeypatch.setattr(os, "fork", fork)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with workers.Crew(5, lambda _: os.getpid()) as crew:
        assert crew.size == 2
        assert len(set(crew.ask([0, 0]))) == 2
    with workers.Crew(5, lambda _: os.getpid()) as crew:
        assert crew.ask([0]) == [os.getpid()]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@linux
def test_with_a_second_thread_nothing_is_forked() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        told: list[int] = []
        with workers.Crew(2, lambda _: os.getpid()) as crew:
            assert crew.size == 1
            left = list(range(3))
            crew.hand_out(lambda _: left.pop() if left else None, lambda _, pid: told.append(pid))
            told += crew.ask([0])
    finally:
        end.set()
        thread.join()
    assert told == [os.getpid()] * 4


SOURCES = {
    "tirx/build.py": "def codegen_build(mod, target):\n    return 1\n\ndef tir_to_runtime():\n    pass\n",
    "relax/vm_build.py": "def _vmlink(builder):\n    pass\n",
    "runtime/module.py": (
        "class Module:\n    def export_library(self):\n        pass\n"
        "    def _collect_dso_modules(self):\n        pass\ndef load_static_library():\n    pass\n"
    ),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TVM that counts as known."""
    known: selfcheck.Known = {}
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        found = selfcheck.digests(source, tuple(selfcheck.CODE_GENERATION[name]))
        known[name] = {function: frozenset({digest}) for function, digest in found.items()}
    (tmp_path / "_version.py").write_text("__version__ = version = '0.27.1.dev3'\n")
    monkeypatch.setattr(selfcheck.mismatch_in, "__defaults__", (known,))
    return tmp_path


def test_a_known_tvm_is_known(package: Path) -> None:
    assert selfcheck.mismatch_in(str(package)) == ""


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("tirx/build.py", "return 1", "return 2", "codegen_build .tirx/build.py. is not the one"),
        ("tirx/build.py", "tir_to_runtime", "tir2runtime", "has no tir_to_runtime"),
        ("relax/vm_build.py", "builder", "builder, more", "_vmlink"),
        ("runtime/module.py", "export_library(self)", "export_library(self, x)", "Module.export_library"),
        ("runtime/module.py", "class", "clas", "can't be read"),
        ("_version.py", "0.27.1", "0.28.0", "TVM 0.28.0.dev3 is not one of 0.26.x, 0.27.x"),
    ],
)
def test_a_changed_tvm_is_not(package: Path, name: str, old: str, new: str, said: str) -> None:
    path = package / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(AssertionError, match=said):
        assert selfcheck.mismatch_in(str(package)) == ""
    path.unlink()
    assert selfcheck.mismatch_in(str(package))


def test_the_installed_tvm_is_known() -> None:
    pytest.importorskip("tvm")
    done = subprocess.run(
        [sys.executable, "-P", kernels.SELF_CHECK], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout == '{"mismatch": "", "lowering": "", "parser": ""}\n'
