"""What `mlc-jit history` looks like: at any width, with any text in it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mlc_jit.bars import cells
from mlc_jit.cli.history import moment, screen

NOW = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))


def job(**changes: Any) -> dict[str, Any]:
    subject = {"key": "ab" * 32, "model": "/models/Llama-3.2-1B-Instruct-q4f16_1-MLC", "device": "auto"}
    ending = {"outcome": "compiled", "seconds": 61.0, "cause": "", "degraded": []}
    who = {"pid": 12, "uid": 0, "program": "serve.py"}
    found = {
        "subject": subject | changes.pop("subject", {}),
        "ending": ending | changes.pop("ending", {}),
        "asked": NOW - 60, "seconds": 70.0, "queued": 5.2, "more": 0, "retried": False,
        "waiters": [{"who": who, "at": 0.0, "seconds": 70.0, "outcome": "served"}] * 3,
    }  # fmt: skip
    return found | changes


def report(*jobs: dict[str, Any], matched: int | None = None) -> dict[str, Any]:
    return {"known": len(jobs), "matched": len(jobs) if matched is None else matched, "jobs": list(jobs)}


def test_a_row_says_when_how_long_for_whom_and_what():
    assert screen(report(job()), now=NOW).splitlines() == [
        "WHEN      KEY           OUTCOME        TOOK  QUEUED  FOR          MODEL",
        "11:59:00  abababababab  compiled  1 min 1 s   5.2 s  serve.py +2  Llama-3.2-1B-Instruct-q4f16_1-MLC",
    ]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width):
    failed = job(ending={"outcome": "failed", "cause": "ValueError: " + "head_dim " * 30}, subject={"device": "x" * 99})
    lines = screen(
        report(job(), failed, job(subject={"model": "/m/" + "模型" * 40})), now=NOW, width=width
    ).splitlines()
    assert max(map(cells, lines)) <= max(width, 80)
    assert any("head_dim" in line for line in lines)


def test_a_name_can_do_nothing_to_a_terminal():
    bad = job(subject={"model": "/m/a\x1b[31m\u202eb\n", "device": "\x07"}, ending={"cause": "\x1b]0;title\x07"})
    shown = screen(report(bad), now=NOW)
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert "a?[31m?b?" in shown


def test_what_a_row_has_no_room_for_stands_below_it():
    lines = screen(report(job(retried=True, ending={"degraded": ["no flashinfer"]})), now=NOW).splitlines()
    assert lines[2:] == ["    degraded: no flashinfer", "    ran out of memory once, and was tried again alone"]


def test_nothing_and_nothing_of_that_kind():
    assert screen(report(), now=NOW) == "Nothing has been compiled here yet."
    assert screen({**report(), "known": 4}, now=NOW) == "No compile of that kind is known."
    assert screen(report(job(), matched=30), now=NOW).endswith("\n\n1 of 30 known (--last 0 shows all)")


def test_who_asked_where_the_program_is_not_known():
    nameless = {"who": {"pid": 0, "uid": 4_000_000, "program": ""}, "at": 0.0, "seconds": 0.0, "outcome": "served"}
    assert "uid 4000000" in screen(report(job(waiters=[nameless])), now=NOW)
    nameless["who"] = {"pid": 77, "uid": 0, "program": ""}
    assert "pid 77" in screen(report(job(waiters=[nameless])), now=NOW)
    assert "compiled" in screen(report(job(waiters=[])), now=NOW)


def test_moments():
    assert moment(NOW - 1, NOW) == "11:59:59"
    assert moment(NOW - 86400, NOW) == "Nov 21 12:00"
    assert moment(NOW - 400 * 86400, NOW) == "2025-10-18"
