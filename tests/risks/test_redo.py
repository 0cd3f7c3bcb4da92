"""Risk: a library is replaced under a process that runs it, or the old one is handed out as the new."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.configs import LLAMA
from harness.daemons import status, until, waiters
from mlc_jit import jit

if TYPE_CHECKING:
    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

RUNNING = """
import ctypes
library = ctypes.CDLL(given["path"])
print(json.dumps(library.answer()), flush=True)
for line in sys.stdin:
    print(json.dumps(library.answer()), flush=True)
"""


@pytest.fixture
def libraries(double: Double) -> tuple[Path, Path]:
    """Two real libraries whose ``answer()`` differs."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    found = []
    for number in (42, 43):
        folder = double.folder / str(number)
        folder.mkdir()
        (folder / "a.c").write_text(f"int answer(void) {{ return {number}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "a.so", folder / "a.c"], check=True)
        found.append(folder / "a.so")
    return found[0], found[1]


def answer_of(path: str) -> int:
    """What a fresh process gets from a library."""
    code = f"import ctypes; print(ctypes.CDLL({path!r}).answer())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=40).stdout)


def test_a_process_that_runs_the_old_library_goes_on_and_others_get_the_new(
    daemon: Daemon, double: Double, libraries: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model()
    monkeypatch.setenv("MLC_DOUBLE_LIBRARY", str(libraries[0]))
    old = jit(model, {}, "cpu").model_lib_path
    before = Path(old).stat()
    running = subprocess.Popen(
        [sys.executable, "-c", f"import json, sys; given = {{'path': {old!r}}}\n{RUNNING}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "42\n"
        monkeypatch.setenv("MLC_DOUBLE_LIBRARY", str(libraries[1]))
        assert jit(model, {}, "cpu").model_lib_path == old  # ON: it is there
        monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
        new = jit(model, {}, "cpu").model_lib_path
        assert new != old
        assert answer_of(new) == 43
        running.stdin.write("again\n")
        running.stdin.flush()
        assert running.stdout.readline() == "42\n"
    finally:
        running.communicate()
    after = Path(old).stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    assert jit(model, {}, "cpu").model_lib_path == new


def test_equal_content_is_not_written_again(
    daemon: Daemon, double: Double, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model()
    old = jit(model, {}, "cpu").model_lib_path
    inode = Path(old).stat().st_ino
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    assert jit(model, {}, "cpu").model_lib_path == old
    assert Path(old).stat().st_ino == inode
    assert len(double.starts()) == 2
    assert len(place.artifacts()) == 1


def test_others_get_the_old_entry_during_a_redo(
    daemon: Daemon, double: Double, client: Clients, libraries: tuple[Path, Path]
) -> None:
    gate = double.gate()
    gate.touch()
    model = double.model(told={"wait_for": gate})
    old = client.ask(model, MLC_DOUBLE_LIBRARY=str(libraries[0])).path()
    gate.unlink()
    redo = {"MLC_JIT_POLICY": "REDO", "MLC_DOUBLE_LIBRARY": str(libraries[1])}
    again = client.ask(model, **redo)
    until(lambda: len(double.starts()) == 2)
    joined = client.ask(model, **redo)
    until(lambda: waiters() == 2)
    assert client.ask(model).path() == old
    assert client.ask(model, MLC_JIT_POLICY="READONLY").path() == old
    gate.touch()
    new = again.path()
    assert joined.path() == new != old
    assert client.ask(model).path() == new
    assert len(double.starts()) == 2
    assert ctypes.CDLL(new).answer() == 43


def test_a_redo_that_fails_leaves_the_old_entry(daemon: Daemon, double: Double, client: Clients, place: Place) -> None:
    gate = double.gate()
    gate.touch()
    model = double.model(told={"wait_for": gate})
    old = client.ask(model).path()
    gate.unlink()
    again = client.ask(model, MLC_JIT_POLICY="REDO")
    until(lambda: len(double.starts()) == 2)
    os.kill(double.starts()[1], 9)
    assert again.error()["error"] == "CompileKilledError"
    assert client.ask(model).path() == old
    assert [str(path) for path in place.artifacts()] == [old]


def test_a_damaged_library_is_set_aside_and_compiled_again(daemon: Daemon, double: Double, place: Place) -> None:
    model = double.model()
    path = Path(jit(model, {}, "cpu").model_lib_path)
    good = path.read_bytes()
    for damage in (good[:-1], b"X" + good[1:], b""):
        path.unlink()
        path.write_bytes(damage)
        assert jit(model, {}, "cpu").model_lib_path == str(path)
        assert path.read_bytes() == good
    assert len(double.starts()) == 4
    counters = status().counters
    assert (counters["damaged"], counters["misses_damaged"]) == (3, 3)
    assert len(list((place.library / ".quarantine").iterdir())) == 3


RUN = """
import numpy as np, tvm
from tvm import relax
def load(path):
    vm = relax.VirtualMachine(tvm.runtime.load_module(path), tvm.cpu())
    facts = json.loads(vm["_metadata"]())
    rng = np.random.default_rng(0)
    shapes = [[64 if extent == "vocab_size" else extent for extent in p["shape"]] for p in facts["params"]]
    weights = [tvm.runtime.tensor(rng.standard_normal(s, dtype="float32")) for s in shapes]
    return lambda: vm["embed"](tvm.runtime.tensor(np.arange(4, dtype="int32")), weights).numpy().tobytes().hex()
old = jit(given["model"], {}, "cpu").model_lib_path
run_old = load(old)
first = run_old()
os.environ["MLC_JIT_POLICY"] = "REDO"
new = jit(given["model"], {}, "cpu").model_lib_path
os.environ["MLC_JIT_POLICY"] = "ON"
hit = jit(given["model"], {}, "cpu").model_lib_path
print(json.dumps([old, new, hit, len(first), run_old() == first, load(new)() == first]))
"""


@pytest.mark.tvm
@pytest.mark.timeout(180)  # 20 s on two idle cores
def test_a_real_library_is_redone_while_it_is_loaded(daemon: Daemon, place: Place, client: Clients) -> None:
    pytest.importorskip("tvm")
    model = place.folder("llama")
    (model / "mlc-chat-config.json").write_text(json.dumps(LLAMA))
    old, new, hit, size, still_runs, the_same = client.code(RUN, model=model).answer(170)
    assert hit == new
    assert size == 4 * 32 * 8
    assert still_runs
    assert the_same
    assert Path(old).is_file()
    assert status().counters["compiles"] == 2
