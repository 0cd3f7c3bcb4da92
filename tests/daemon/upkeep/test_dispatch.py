from __future__ import annotations

import json
import sys

import pytest

from mlc_jitd import upkeep
from mlc_jitd.__main__ import main

VERB = '''"""Count."""
from mlc_jit.errors import StoreError

def add(parser):
    parser.add_argument("what")

def run(arguments, tell):
    tell(1)
    if arguments.what == "no":
        raise StoreError("It is full.", reason="full", remedy="Make room.")
    if arguments.what == "interrupt":
        raise KeyboardInterrupt
    if arguments.what == "slip":
        raise ZeroDivisionError("by zero")
    return {"said": arguments.what}
'''


@pytest.fixture(autouse=True)
def verb(tmp_path, monkeypatch):
    (tmp_path / "count_.py").write_text(VERB)
    monkeypatch.setattr(upkeep, "__path__", [str(tmp_path)])
    yield
    sys.modules.pop("mlc_jitd.upkeep.count_", None)


def test_a_module_is_a_verb_and_answers_in_lines_of_json(capsys):
    assert main(["count", "yes"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"progress": 1},
        {"result": {"said": "yes"}},
    ]


def test_an_error_travels_as_on_the_wire(capsys):
    assert main(["count", "no"]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["error"], said["message"], said["reason"]) == ("store", "It is full.", "full")
    assert said["remedy"] == "Make room."


def test_a_slip_of_ours_is_an_error_too(capsys):
    assert main(["count", "slip"]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["reason"] == "internal"
    assert "ZeroDivisionError: by zero" in said["message"]


def test_an_interrupt_says_nothing(capsys):
    assert main(["count", "interrupt"]) == 130
    assert len(capsys.readouterr().out.splitlines()) == 1
