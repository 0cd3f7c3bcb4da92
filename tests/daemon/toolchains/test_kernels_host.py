"""What of the kernels' way needs no TVM: the command, the log, the report, groups, workers, the self-check."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.toolchains import Command, Stage, kernels
from mlc_jitd.toolchains.kernels import KernelReport
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import groups, selfcheck, workers

if TYPE_CHECKING:
    from pathlib import Path

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


def test_light_groups_share_modules_by_names_without_numbers() -> None:
    names = ["matmul", "matmul1", "a", "reshape", "reshape1", "reshape17", "shape_func", "shape_func3"]
    weights = {name: groups.LIGHT if name == "matmul" else 100 for name in names} | {"a": groups.LIGHT - 100}
    found = groups.bundles([("matmul",), ("a", "matmul1"), *[(name,) for name in names[3:]]], weights)
    assert found[:2] == [("matmul",), ("a", "matmul1")], "a group is as heavy as all that is in it"
    assert sorted(found[2:]) == [("reshape", "reshape1", "reshape17"), ("shape_func", "shape_func3")]
    assert groups.bundles([("shape_func",), ("a",)], {"shape_func": 1, "a": 1}) == [("shape_func",), ("a",)]
    many = [(letter * 2,) for letter in "abcdefghijklmnopqrstuvwxyz"]
    light = {name: 1 for (name,) in many}
    before = groups.bundles(many, light)
    assert len(before) == groups.SHARED
    after = groups.bundles([*many, ("another",)], {**light, "another": 1})
    assert len(set(before) - set(after)) == 1, "what comes or goes concerns one module alone"


def test_the_heaviest_starts_first() -> None:
    assert groups.heaviest_first({0: 1, 1: 5, 2: 3, 3: 5}) == [1, 3, 2, 0]


@pytest.fixture
def forkable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parallel test run has a thread of its own, with nothing in it that a child of these tests could miss."""
    monkeypatch.setattr(workers, "unforkable", lambda: "")


@linux
def test_children_do_every_piece_once(tmp_path: Path, forkable: None) -> None:
    def work(number: int) -> bool:
        (tmp_path / f"{number}-{os.getpid()}").touch()
        return number % 2 == 0

    told: dict[int, bool] = {}
    workers.run(range(3000), 3, work, lambda number, result, _: told.update({number: result}))
    assert told == {number: number % 2 == 0 for number in range(3000)}
    names = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(number) for number, _ in names) == list(range(3000))
    assert str(os.getpid()) not in {pid for _, pid in names}


@linux
def test_the_first_piece_starts_first_and_a_long_one_holds_up_nobody(tmp_path: Path, forkable: None) -> None:
    def work(number: int) -> bool:
        while number == 9 and len(list(tmp_path.iterdir())) < 9:  # until the other child has done all the rest
            time.sleep(0.01)
        (tmp_path / str(number)).touch()
        return True

    order: list[int] = []
    workers.run([9, *range(9)], 2, work, lambda number, *_: order.append(number))
    assert order[-1] == 9
    assert order[:9] == list(range(9))


@linux
@pytest.mark.parametrize("how", ["killed", "raised", "exited"])
def test_a_child_that_fails_is_an_error_and_leaves_nobody(how: str, forkable: None) -> None:
    def work(number: int) -> bool:
        if number == 5:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "exited":
                os._exit(3)
            raise ValueError("no")
        return True

    with pytest.raises(workers.WorkerError):
        workers.run(range(10), 2, work, lambda *_: None)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
@pytest.mark.parametrize("how", ["well", "raises", "killed", "silent"])
def test_shares_are_answered_by_all_and_a_childs_failure_is_made_good(forkable: None, how: str) -> None:
    here = os.getpid()

    def work(piece: str) -> tuple[str, bool]:
        if os.getpid() != here and piece == "b":
            if how == "raises":
                raise ValueError("no")
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "silent":
                os._exit(0)
        return piece * 2, os.getpid() == here

    found = workers.share_out(list("abcdefg"), 3, work)
    assert list(found) == list("abcdefg")
    assert all(answer[0] == piece * 2 for piece, answer in found.items())
    done_here = {piece for piece, answer in found.items() if answer[1]}
    assert done_here == (set("adg") if how == "well" else set("adgbe"))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
def test_what_fails_here_too_is_raised_and_no_child_stays(forkable: None) -> None:
    def work(piece: str) -> str:
        if piece == "b":
            raise ValueError("no")
        return piece

    with pytest.raises(ValueError, match="no"):
        workers.share_out(list("abcd"), 2, work)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@linux
def test_with_a_second_thread_nothing_is_forked() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        pids: list[int] = []
        workers.run(range(3), 2, lambda _: not pids.append(os.getpid()), lambda *_: None)
        workers.share_out("ab", 2, lambda _: pids.append(os.getpid()))
    finally:
        end.set()
        thread.join()
    assert pids == [os.getpid()] * 5


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
    assert done.stdout == '{"mismatch": "", "parser": ""}\n'
