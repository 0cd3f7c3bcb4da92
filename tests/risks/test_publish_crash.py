"""Risk: the process ends at any step of a publish, a quarantine or a collection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).with_name("store_child.py")


def crashes(home: Path, scenario: str) -> list[dict[str, Any]]:
    """What is seen after a crash at each step of a scenario; the last run comes to its end."""
    run = subprocess.run(
        [sys.executable, CHILD, "crash", home, scenario], check=True, capture_output=True, text=True, timeout=18
    )
    steps: list[dict[str, Any]] = json.loads(run.stdout)
    assert [step["status"] for step in steps] == [42] * (len(steps) - 1) + [0]
    return steps


@pytest.mark.parametrize(
    ("scenario", "allowed"),
    [
        ("first", {"absent", "new"}),
        ("redo", {"old", "new"}),
        ("identical", {"old"}),
        ("over-damage", {"absent", "old"}),
        ("quarantine", {"damaged", "absent"}),
    ],
)
def test_every_step_leaves_a_whole_entry_or_none(tmp_path: Path, scenario: str, allowed: set[str]) -> None:
    steps = crashes(tmp_path / "home", scenario)
    assert {step["seen"] for step in steps} <= allowed
    assert {step["after"] for step in steps} <= allowed
    assert {step["next"] for step in steps} == {"next"}
    assert {step["staging"] for step in steps} == {0}
    assert [step["orphans"] for step in steps if step["orphans"]] == []
    events = {step["event"] for step in steps}
    assert {"os.rename", "os.mkdir", "os.fsync", "open"} <= events


@pytest.mark.parametrize(
    ("scenario", "last"),
    [("collect", "absent"), ("collect-older", "new"), ("collect-handed", "old")],
)
def test_every_step_of_a_collection_leaves_whole_entries(tmp_path: Path, scenario: str, last: str) -> None:
    steps = crashes(tmp_path / "home", scenario)
    before = "new" if scenario == "collect-older" else "old"
    assert {step["seen"] for step in steps} <= {before, "absent"}
    # While the artifact is there, a crash loses nothing: the entry comes back.
    assert [step["after"] for step in steps] == [before if step["artifacts"] else "absent" for step in steps]
    assert steps[-1]["seen"] == steps[-1]["after"] == last
    assert {step["next"] for step in steps} == {"next"}
    assert [step["away"] for step in steps if step["away"]] == []
    assert [step["orphans"] for step in steps if step["orphans"]] == []
    assert {"os.rename" if scenario == "collect-handed" else "os.remove", "open"} <= {each["event"] for each in steps}
    assert ("absent" in {step["seen"] for step in steps}) is (scenario != "collect-older")


def test_the_switch_happens_at_one_step(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, CHILD, "crash", tmp_path / "home", "redo"],
        check=True, capture_output=True, text=True, timeout=18,
    )  # fmt: skip
    steps = json.loads(run.stdout)
    seen = [step["seen"] for step in steps]
    switch = seen.index("new")
    assert seen == ["old"] * switch + ["new"] * (len(seen) - switch)
    # The step before whose end the new entry was not yet there is the manifest's rename.
    assert steps[switch - 1]["event"] == "os.rename"
