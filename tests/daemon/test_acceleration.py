"""When a compile that failed is tried once more with nothing of ours in TVM's places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlc_jitd.acceleration import FOLDER, Acceleration
from mlc_jitd.build import Outcome
from mlc_jitd.store import KernelStore

TAKEN = ["kernels", "nvcc", "parser"]


OURS = 'File "/x/mlc_jitd_kernels/parsing.py", line 90, in evaluate'


def ended(status: Any, tail: str = "") -> Outcome:
    return Outcome(status, 1, None, 1.0, 1.0, 1, tail, Path("log"), False, "")


@pytest.mark.parametrize(
    ("status", "report", "suspect"),
    [
        ("exited", {"taken": TAKEN, "way": "kernels"}, True),
        ("exited", {"taken": TAKEN, "way": "plain", "failures": 1}, True),
        ("exited", {"taken": TAKEN}, False),  # a model that can't be compiled, most likely
        ("exited", {"taken": TAKEN, "way": "plain"}, False),
        ("signalled", {"taken": TAKEN}, True),
        ("signalled", {"taken": TAKEN, "way": "plain"}, True),
        ("signalled", {"taken": [], "way": "plain"}, False),
        ("signalled", None, False),
        ("cancelled", {"taken": TAKEN, "way": "kernels"}, False),
        ("timed-out", {"taken": TAKEN, "way": "kernels"}, False),
        ("lost", {"taken": TAKEN, "way": "kernels"}, False),
    ],
)
def test_a_compile_that_failed_is_suspect_where_we_may_be_to_blame(
    tmp_path: Path, status: str, report: dict[str, Any] | None, suspect: bool
) -> None:
    acceleration = Acceleration(KernelStore(tmp_path / "kernels", limit=1 << 20))
    if report is not None:
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "report.json").write_text(json.dumps(report))
    assert acceleration.is_suspect(tmp_path, ended(status)) is suspect
    assert acceleration.store.counters().get("kernels_failures", 0) == suspect


def test_a_traceback_through_our_code_is_suspect(tmp_path: Path) -> None:
    acceleration = Acceleration(KernelStore(tmp_path / "kernels", limit=1 << 20))
    assert acceleration.is_suspect(tmp_path, ended("exited", OURS))
    assert not acceleration.is_suspect(tmp_path, ended("cancelled", OURS))
