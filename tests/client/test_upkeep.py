from __future__ import annotations

import shlex
import sys

import pytest

from mlc_jit.cli.upkeep import upkeep
from mlc_jit.errors import DaemonUnavailableError, StoreFullError


@pytest.fixture
def saying(tmp_path, monkeypatch):
    """Let `mlc-jitd` say this."""

    def say(*lines: str, code: int = 0):
        program = tmp_path / "python"
        spoken = "".join(f"echo {shlex.quote(line)}\n" for line in lines)
        program.write_text(f"#!/bin/sh\n{spoken}exit {code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return say


def test_progress_comes_first_and_the_result_is_handed_back(saying):
    saying('{"progress": 1}', '{"progress": {"of": 2}}', '{"result": [1, 2]}')
    seen = []
    assert upkeep("gc", on_progress=seen.append) == [1, 2]
    assert seen == [1, {"of": 2}]


def test_an_error_is_raised_as_what_it_was(saying):
    saying('{"error": "store-full", "message": "No room.", "remedy": "Make some.", "reason": "full"}', code=1)
    with pytest.raises(StoreFullError, match="No room") as caught:
        upkeep("gc")
    assert (caught.value.remedy, caught.value.reason) == ("Make some.", "full")


@pytest.mark.parametrize("lines", [(), ("Segmentation fault",), ('{"progress": 1}',)])
def test_an_end_without_an_answer_is_an_error_with_the_command_to_try(saying, lines):
    saying(*lines, code=3)
    with pytest.raises(DaemonUnavailableError, match="without an answer") as caught:
        upkeep("gc", "--dry-run")
    assert "mlc_jitd gc --dry-run" in caught.value.remedy
