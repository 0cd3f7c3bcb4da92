"""The double does as it is told: what the other tests rest on."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


@pytest.fixture(scope="module")
def double() -> ModuleType:
    place = Path(__file__).parents[2] / "double" / "double.py"
    spec = importlib.util.spec_from_file_location("double", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(double: ModuleType, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    def run(told: dict[str, Any], *more: str, **env: str) -> subprocess.Popen[bytes]:
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "mlc-chat-config.json").write_bytes(double.config(told))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlc_llm", "compile", str(model), "--output", str(tmp_path / "lib.so"), *more],
            env=double.environment(tmp_path / "log", **env),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return run


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, said = process.communicate(timeout=40)
    return process.returncode, said.decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_compiles(double: ModuleType, start: Any, tmp_path: Path) -> None:
    status, said = finish(start({}, "--device", "android", "--overrides", "max_batch_size=1", "--opt", "O3"))
    assert status == 0
    assert "Generated" in said
    asked = json.loads((tmp_path / "lib.so").read_bytes())
    assert (asked["device"], asked["overrides"], asked["opt"]) == ("android", "max_batch_size=1", "O3")
    assert [event for _, event in double.events(tmp_path / "log")] == ["start", "done"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_its_library_loads(double: ModuleType, start: Any, tmp_path: Path) -> None:
    library = double.build_library(tmp_path)
    assert finish(start({}, MLC_DOUBLE_LIBRARY=str(library)))[0] == 0
    assert ctypes.CDLL(str(tmp_path / "lib.so")).answer() == 42


@pytest.mark.parametrize(
    ("told", "status", "output", "said"),
    [
        ({"exit": 3}, 3, True, "Generated"),
        ({"output": False}, 0, False, "Generated"),
        ({"output": "x", "size": 10}, 0, True, ""),
        ({"raise": "because"}, 1, True, "ValueError: because"),
        ({"print": ["one", "two"], "stages": False}, 0, True, "one\ntwo"),
        ({"signal": int(signal.SIGKILL)}, -signal.SIGKILL, False, ""),
        ({"signal": int(signal.SIGSEGV)}, -signal.SIGSEGV, False, ""),
        ({"degraded": True}, 0, True, "FlashInfer"),
        ({"flood": 0.5}, 0, True, "flood flood"),
        ({"memory": 8, "sleep": 0.01}, 0, True, ""),
    ],
)
def test_it_behaves(start: Any, tmp_path: Path, *, told: dict[str, Any], status: int, output: bool, said: str) -> None:
    ended, heard = finish(start(told))
    assert ended == status
    assert (tmp_path / "lib.so").exists() == output
    assert said in heard


def test_it_waits_for_a_file(double: ModuleType, start: Any, tmp_path: Path) -> None:
    process = start({"wait_for": str(tmp_path / "go")})
    until(lambda: bool(double.events(tmp_path / "log")))
    assert process.poll() is None
    (tmp_path / "go").touch()
    assert finish(process)[0] == 0
    assert not double.overlaps(tmp_path / "log")


def test_it_hangs_ignores_and_leaves_children(double: ModuleType, start: Any, tmp_path: Path) -> None:
    process = start({"hang": True, "ignore_term": True, "children": 1, "setsid": 1})
    until(lambda: len(double.events(tmp_path / "log")) == 3)
    children = [int(event.split()[1]) for _, event in double.events(tmp_path / "log") if event.startswith("child")]
    try:
        assert [os.getsid(child) == os.getsid(process.pid) for child in children] == [True, False]
        os.kill(process.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    finally:
        for pid in (*children, process.pid):
            os.kill(pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL


@pytest.mark.parametrize("more", [["--system-lib-prefix", "1x"], ["--output", "/nowhere/lib.so"], ["--nonsense"]])
def test_it_refuses_what_upstream_refuses(start: Any, more: list[str]) -> None:
    assert finish(start({}, *more))[0] == 2


def test_overlaps_are_seen(double: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1 start\n2 start\n1 done\n2 done\n")
    assert double.overlaps(tmp_path / "log")
