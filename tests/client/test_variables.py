"""What of a client's environment travels, and in which shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlc_jit import variables
from mlc_jit.variables import KEYED, KEYED_PREFIXES, PASSED, collect, is_keyed


def test_the_lists_are_apart_and_every_name_has_its_reason() -> None:
    assert not KEYED.keys() & PASSED.keys()
    for table in (KEYED, PASSED, KEYED_PREFIXES):
        assert list(table) == sorted(table)
        assert all(len(reason) > 8 for reason in table.values())


def test_only_declared_variables_travel() -> None:
    environ = {"PATH": "/bin", "MLC_MULTI_ARCH": "80", "HOME": "/h", "SECRET": "x", "MLC_JIT_POLICY": "ON"}
    assert collect(environ) == {"PATH": "/bin", "HOME": "/h", "MLC_MULTI_ARCH": "80"}


def test_further_names_can_be_passed_and_are_not_keyed() -> None:
    environ = {"MLC_JITD_PASS_ENV": "MINE, OTHER,,ABSENT", "MINE": "1", "OTHER": "2"}
    assert collect(environ) == {"MINE": "1", "OTHER": "2"}
    assert not is_keyed("MINE")


@pytest.mark.parametrize("name", ["MLC_MULTI_ARCH", "FLASHINFER_CUDA_ARCH_LIST", "LD_RUN_PATH"])
def test_keyed(name: str) -> None:
    assert is_keyed(name)


@pytest.mark.parametrize(
    "name", ["PATH", "CUDA_VISIBLE_DEVICES", "FLASHINFER_WORKSPACE_BASE", "HOME", "MLC_DSO_SUFFIX"]
)
def test_not_keyed(name: str) -> None:
    assert not is_keyed(name)


def test_relative_entries_are_made_absolute_and_empty_ones_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(Path.cwd())
    found = collect({"PYTHONPATH": "src::/abs:", "PATH": "/bin:/usr/bin", "CC": "gcc"})
    assert found == {"PYTHONPATH": f"{here}/src:/abs", "PATH": "/bin:/usr/bin", "CC": "gcc"}


def test_what_no_message_can_carry_stays_behind() -> None:
    assert collect({"PATH": "/b\udcffin", "CC": "gccä"}) == {"CC": "gccä"}


def test_the_module_imports_nothing_but_the_standard_library() -> None:
    program = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('variables', {variables.__file__!r})\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names and n != '__main__'))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "[]"
