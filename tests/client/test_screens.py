"""What people see: the progress line, figures, tables, overrides on the command line."""

from __future__ import annotations

import io

import pytest

from mlc_jit import messages as m
from mlc_jit.cli.asking import duration, size, table
from mlc_jit.cli.compile_ import parse_overrides
from mlc_jit.errors import OverrideInvalidError
from mlc_jit.progress import ProgressLine


class Terminal(io.StringIO):
    """A terminal of 80 columns, as far as anybody can tell."""

    def isatty(self) -> bool:
        return True

    def last(self) -> str:
        return self.getvalue().rsplit("\r\x1b[2K", 1)[-1]


def step(stage: str, detail: str = "", fraction: float | None = None, elapsed: float = 1.26) -> m.Progress:
    return m.Progress(id=1, stage=stage, detail=detail, fraction=fraction, elapsed=elapsed)


def test_on_a_terminal_one_line_is_rewritten_and_taken_away():
    terminal = Terminal()
    with ProgressLine("Llama", stream=terminal) as line:
        line(step("start"))
        assert terminal.last() == "Llama  start  1 s"
        line(step("lower", "3 of 9", 0.33, elapsed=61.0))
        assert terminal.last() == "Llama   33% lower: 3 of 9  61 s"
    assert terminal.last() == ""
    assert "\n" not in terminal.getvalue()


def test_a_long_line_is_cut_to_the_terminal():
    terminal = Terminal()
    with ProgressLine("Llama", stream=terminal) as line:
        line(step("lower", "x" * 500))
        assert len(terminal.last()) == 79
        assert terminal.last().endswith("…")


def test_a_flood_of_progress_is_not_drawn_but_a_new_stage_is():
    terminal = Terminal()
    with ProgressLine("Llama", stream=terminal) as line:
        for number in range(1000):
            line(step("lower", str(number)))
        drawn = terminal.getvalue().count("lower")
        line(step("link"))
        assert terminal.last().startswith("Llama  link")
    assert drawn < 100


def test_elsewhere_a_plain_line_per_stage():
    stream = io.StringIO()
    with ProgressLine("Llama", stream=stream) as line:
        line(step("start"))
        line(step("lower", "1 of 9"))
        line(step("lower", "2 of 9"))
        line(step("publish", elapsed=9.0))
    assert stream.getvalue().splitlines() == [
        "mlc-jit: Llama: start (1.3 s)",
        "mlc-jit: Llama: lower: 1 of 9 (1.3 s)",
        "mlc-jit: Llama: publish (9.0 s)",
    ]


def test_plain_lines_may_be_asked_for():
    terminal = Terminal()
    with ProgressLine("Llama", stream=terminal, plain=True) as line:
        line(step("start"))
    assert terminal.getvalue() == "mlc-jit: Llama: start (1.3 s)\n"


def test_nothing_is_written_when_there_was_nothing_to_say(capsys: pytest.CaptureFixture[str]):
    with ProgressLine("Llama"):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_is_never_written_to_standard_output(capsys: pytest.CaptureFixture[str]):
    with ProgressLine("Llama") as line:
        line(step("start"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "start" in err


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
