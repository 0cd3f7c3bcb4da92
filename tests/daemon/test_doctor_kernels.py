"""What the doctor says of kernels that are compiled apart."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.config import Settings
from mlc_jitd.doctor import kernels
from mlc_jitd.doctor.finding import Finding, Patient
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import selfcheck

if TYPE_CHECKING:
    from harness.daemons import Place

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are not compiled apart")


def look(acceleration: str, **environ: str) -> Finding:
    patient = Patient.here()
    found = dataclasses.replace(
        patient, environ={**patient.environ, **environ}, settings=Settings(acceleration=acceleration)
    )
    (finding,) = kernels.kernels(found)
    return finding


def test_switched_off(place: Place) -> None:
    assert (look("off").level, look("off").found) == ("ok", "not compiled apart: the setting is off")


@linux
def test_a_known_tvm(place: Place) -> None:
    pytest.importorskip("tvm")
    folder = place.library / ".kernels" / "ab"
    folder.mkdir(parents=True)
    (folder / ("ab" * 32)).write_bytes(b"x" * 2048)
    finding = look("auto")
    assert finding.level == "ok"
    assert finding.found == "compiled apart, in parallel, and reused; 1 are known, 2 KiB"


@linux
def test_another_tvm_and_no_interpreter_are_notes_with_the_reason(place: Place, tmp_path: Path) -> None:
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").touch()
    (tmp_path / "tvm" / "_version.py").write_text("__version__ = version = '0.31.0'\n")
    finding = look("auto", PYTHONPATH=str(tmp_path))
    assert (finding.level, finding.found) == (
        "note",
        "not compiled apart: TVM 0.31.0 is not one of 0.26.x, 0.27.x",
    )
    finding = look("auto", MLC_JITD_PYTHON="/nowhere/python")
    assert finding.level == "note"
    assert "/nowhere/python can't be asked" in finding.found


@linux
def test_another_script_parser_is_named_and_kernels_are_compiled_apart(place: Place, tmp_path: Path) -> None:
    tvm = pytest.importorskip("tvm")
    own, copy = Path(tvm.__file__).parent, tmp_path / "tvm"
    names = ["__init__.py", "_version.py", *selfcheck.CODE_GENERATION, *selfcheck.PARSER]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("" if name == "__init__.py" else (own / name).read_text())
    entry = copy / "tirx/script/parser/entry.py"
    entry.write_text(entry.read_text().replace("outer_stack = inspect.stack()", "outer_stack = inspect.stack(1)"))
    finding = look("auto", PYTHONPATH=str(tmp_path))
    assert (finding.level, finding.found) == ("ok", "compiled apart, in parallel, and reused; 0 are known, 0 B")
    assert finding.follows.endswith(
        "; TVM's script parser is left as it is: "
        "TVM's prim_func (tirx/script/parser/entry.py) is not the one that is known"
    )
