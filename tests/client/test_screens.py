"""What people see: figures, tables, overrides on the command line."""

from __future__ import annotations

import dataclasses

import pytest

from mlc_jit import messages as m
from mlc_jit.bars import cells
from mlc_jit.cli import screens, status
from mlc_jit.cli.asking import duration, size, table
from mlc_jit.cli.compile_ import parse_overrides
from mlc_jit.errors import OverrideInvalidError


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_200_000, "3.2 MB"), (5e9, "5.0 GB"), (7.5e12, "7.5 TB"),
        (2e15, "2000.0 TB"),
    ],
)  # fmt: skip
def test_sizes(count: float, text: str):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.26, "0.3 s"), (9.94, "9.9 s"), (42.7, "42 s"), (60, "1 min"), (185, "3 min 5 s"),
        (3599, "59 min 59 s"), (3600, "1 h"), (7800, "2 h 10 min"), (86399, "23 h 59 min"), (3 * 86400, "3 d"),
        (5 * 86400 + 3 * 3600, "5 d 3 h"), (400 * 86400, "400 d"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_table_is_as_wide_as_its_cells():
    rows = [["KEY", "SIZE", "MODEL"], ["abc", "1.0 kB", "x"], ["d", "12.5 MB", ""]]
    assert table(rows, right=frozenset({1})).splitlines() == [
        "KEY     SIZE  MODEL",
        "abc   1.0 kB  x",
        "d    12.5 MB",
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        (" ; ;", {}),
        ("a=1;b=-2", {"a": 1, "b": -2}),
        (" a = 1 ; opt = O3 ", {"a": 1, "opt": "O3"}),
        ("flag=true;other=False", {"flag": True, "other": False}),
        ("x=1.5;y=٣;z=-;e=", {"x": "1.5", "y": "٣", "z": "-", "e": ""}),
        ("flags=a=b", {"flags": "a=b"}),
    ],
)
def test_overrides_on_the_command_line(text: str, values: dict[str, object]):
    found = parse_overrides(text)
    assert found == values
    assert [type(value) for value in found.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize("text", ["a", "=1", "a=1;b", "a=1;a=2", "a=1;;b=2; =3"])
def test_overrides_that_are_none(text: str):
    with pytest.raises(OverrideInvalidError):
        parse_overrides(text)


MEMORY, UNKNOWN = "waits for memory", "waits for a compile of unknown need to end"
JOBS = (
    ("Llama-3.2-1B-Instruct-q4f16_1-MLC", "running", "code generation", "", 0.42, 35.0, 25.0),
    ("Qwen3-0.6B-q4f16_1-MLC", "running", "graph passes", "", 0.07, 120.0, 8.2),
    ("tiny", "running", "loading", "the compiler", None, None, 1.0),
    ("SmolLM2-135M-Instruct-MLC", "queued", "queued", f"position 1, {MEMORY}, starts in about 9 s", None, 140.0, 30.0),
    ("Phi-3.5-mini-instruct-q4f16_1-MLC", "queued", "queued", "position 2", None, None, 4000.0),
    ("gemma-2-2b-it-q4f16_1-MLC", "queued", "queued", f"position 3, {UNKNOWN}", None, None, 1.0),
    ("a", "queued", "queued", "position 4", None, None, 1.0),
    ("b", "queued", "queued", "position 5", None, None, 1.0),
)  # fmt: skip


ABOUT = m.Status(id=1, version="0.0.1", pid=7, uptime=60, home="/h", socket="/s", log_path="/l", slots=3)


def shown(width: int | None, **counters: int) -> list[str]:
    """The status of a daemon with three running and five waiting compiles."""
    jobs = tuple(
        m.JobReport(
            key=f"{n:064x}", state=state, model=f"/models/{name}", stage=stage, detail=detail, fraction=fraction,
            left=left, elapsed=elapsed, waiters=1,
        )
        for n, (name, state, stage, detail, fraction, left, elapsed) in enumerate(JOBS)
    )  # fmt: skip
    return status.screen(dataclasses.replace(ABOUT, jobs=jobs, counters=counters), width).splitlines()


def test_a_status_fits_a_terminal_and_keeps_what_matters():
    lines = shown(80)
    table = lines[lines.index("") + 1 :]
    assert max(map(cells, lines)) < 80
    assert [line[14:21].strip() for line in table[1:]] == [job[1] for job in JOBS]
    assert "42% code generation  " in table[1]
    assert "loading" in table[3]
    assert "#1, waits for memory" in table[4]
    assert " 1:06:40 " in table[5]
    assert "#3, waits for a co" in table[6]
    assert "Llama-3.2" in table[1]


@pytest.mark.parametrize("width", [160, None])
def test_with_room_nothing_of_a_status_is_cut(width: int | None):
    text = "\n".join(shown(width))
    assert "#3, waits for a compile of unknown need to end" in text
    assert all(job[0] in text for job in JOBS)


def test_hit_ratio_reasons_and_time_saved():
    told = {"hits": 5997, "misses_absent": 2, "misses_damaged": 1, "lent": 9, "lent_milliseconds": 90_000}
    lines = shown(160, **told, compile_milliseconds=30_000)
    assert "  asked   5997 hits of 6000, over 99.9 %; 3 misses: 2 absent, 1 damaged" in lines
    assert "  saved   1 min of compile time: 9 handed to processes, 30 s spent" in lines
    assert "  saved   0.0 s of compile time: 1 handed to processes, 2.0 s spent" in shown(
        160, lent=1, lent_milliseconds=1000, compile_milliseconds=2000
    ), "what was compiled and is not used yet is no saving"


@pytest.mark.parametrize(
    ("hits", "misses", "text"),
    [(1, 0, "100 %"), (0, 9, "0 %"), (2, 1, "66.7 %"), (10**6, 1, "over 99.9 %"), (1, 10**6, "under 0.1 %")],
)
def test_a_ratio_is_whole_only_where_it_is(hits: int, misses: int, text: str):
    assert screens.ratio(hits, misses) == text


def test_what_is_off_is_said_first():
    lines = shown(None, engine_errors=2)
    assert "  health  it is version 0.0.1, this command is" in lines[1]
    assert lines[1].endswith("; 2 faults of the daemon's own (its log has them)")


def test_a_long_line_is_folded_under_itself_and_paths_stay_whole():
    layer = m.LayerReport(path="/a/" + "long/" * 20, state="ok", entries=2)
    text = status.screen(dataclasses.replace(ABOUT, layers=(layer,), counters={"engine_errors": 1}), 80)
    assert layer.path + ":" in text
    folded = [line for line in text.splitlines() if line.startswith(" " * 10)]
    assert folded
    assert all(len(line) < 80 for line in text.splitlines() if "/long/" not in line)


def test_a_status_says_in_words_what_warm_compilers_did():
    assert not any(line.startswith("  warm") for line in shown(80, plain_compiles=3))
    told = {"warm_workers": 1, "warm_started": 3, "warm_compiles": 11, "plain_compiles": 1, "warm_retired": 2}
    (line,) = [line for line in shown(100, **told, warm_crashed=1) if line.startswith("  warm")]
    assert line == "  warm    1 compiler loaded; 11 compiles used one, 1 did not; 2 retired, 1 crashed"
