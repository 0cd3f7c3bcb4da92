"""Progress for people: how a bar looks at every width, what a terminal shows, and what a pipe gets."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.leftovers import until
from mlc_jit import bars
from mlc_jit import messages as m
from mlc_jit.bars import Bar, Glyphs, cells, line
from mlc_jit.progress import Board, ProgressLine

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|([^\x1b])", re.DOTALL)


class Terminal(io.StringIO):
    """A terminal that obeys what a board says, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._pty = pty.openpty()
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.resize(80)

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self._pty[1], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns = columns

    def fileno(self) -> int:
        return self._pty[1]

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.lines]

    def write(self, text: str) -> int:
        for number, command, plain in _PIECE.findall(text):
            if plain == "\r":
                self.column = 0
            elif plain == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [[]] * (self.row + 1 - len(self.lines))
            elif plain:
                row = [*self.lines[self.row]]
                row += " " * (self.column + 1 - len(row))
                row[self.column] = plain
                self.lines[self.row] = row
                self.column += 1
                assert self.column < self.columns, "the last column is left free"
            elif command == "A":
                self.row -= int(number)
                assert self.row >= 0, "above the screen"
            elif command == "K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif command == "J":
                self.lines[self.row :] = [self.lines[self.row][: self.column]]
            else:
                assert (number, command) in {("?7", "l"), ("?7", "h")}
        return super().write(text)

    def close(self) -> None:
        for fd in self._pty:
            os.close(fd)
        super().close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal()
    yield found
    found.close()


def step(
    stage: str,
    detail: str = "",
    fraction: float | None = None,
    elapsed: float = 1.26,
    left: float | None = None,
) -> m.Progress:
    return m.Progress(id=1, stage=stage, detail=detail, fraction=fraction, elapsed=elapsed, left=left)


RUNNING = step("codegen", "49 kernels with LLVM", 0.42, 42.0, 58.0)


# --- one line -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (20, "smollm…  42% -0:58"),
        (40, "smollm2-135m ━━───  42% codegen:… -0:58"),
        (60, "smollm2-135m ━━━─────  42% codegen: 49 kernels with…  -0:58"),
        (80, "smollm2-135m  ━━━━───────   42%  codegen: 49 kernels with L…   0:42   0:58 left"),
    ],
)
def test_a_line_fits_its_width(width: int, expected: str) -> None:
    assert line(Bar("smollm2-135m", RUNNING), width, 0.0) == expected


def test_its_clock_goes_on_between_two_messages() -> None:
    shown = line(Bar("x", RUNNING, heard=100.0), 80, 110.0)
    assert shown.endswith("0:52   0:48 left")


def test_where_nothing_is_known_something_moves() -> None:
    bar = Bar("x", step("lower"))
    shown = {line(bar, 80, now / 4).partition("lower")[0] for now in range(8)}
    assert len(shown) > 4
    assert all("%" not in each for each in shown)


def test_a_place_in_the_queue_gets_the_room_of_the_bar() -> None:
    shown = line(Bar("x", step("queued", "position 2, starts in about 40 s", left=100.0)), 80, 0.0)
    assert "queued: position 2, starts in about 40 s" in shown
    assert "─" not in shown


def test_what_is_over_says_how() -> None:
    assert "100%  done" in line(Bar("x", RUNNING, ended="done"), 80, 0.0)
    failed = line(Bar("x", RUNNING, ended="failed"), 80, 0.0)
    assert "failed" in failed
    assert "%" not in failed


def test_nothing_in_a_line_commands_the_terminal() -> None:
    shown = line(Bar("a\x1b[2Jb\n", step("s\r", "\x9b31m\u202e")), 200, 0.0)
    assert shown.isprintable()
    assert "a?[2Jb?" in shown


def test_a_terminal_without_these_glyphs_gets_others() -> None:
    shown = line(Bar("x" * 50, RUNNING), 80, 0.0, glyphs=Glyphs.of("ascii"))
    assert shown.isascii()
    assert Glyphs.of("utf-8") == Glyphs()
    assert Glyphs.of("no such encoding").full == "#"


@settings(max_examples=500, deadline=None, database=None)
@given(
    st.text(max_size=80),
    st.text(max_size=40),
    st.text(max_size=60),
    st.none() | st.floats(0, 1),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.integers(20, 200),
    st.sampled_from(["", "done", "failed"]),
)
def test_no_line_is_too_long_and_the_percent_is_always_there(
    label: str,
    stage: str,
    detail: str,
    fraction: float | None,
    elapsed: float,
    left: float | None,
    width: int,
    how: str,
) -> None:
    bar = Bar(label, step(stage, detail, fraction, elapsed, left), ended=how)
    shown = line(bar, width, 0.0)
    assert cells(shown) < width
    assert shown.isprintable()
    if fraction is not None and stage != "queued" and how != "failed":
        assert "%" in shown


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (42.9, "0:42"), (185, "3:05"), (3730, "1:02:10")])
def test_clock(seconds: float, expected: str) -> None:
    assert bars.clock(seconds) == expected


# --- a terminal -----------------------------------------------------------------------------------------------------


def test_bars_stand_below_each_other_and_are_gone_at_the_end(terminal: Terminal) -> None:
    terminal.write("before\n")
    with Board(stream=terminal) as board:
        first, second = board.add("first"), board.add("second")
        second(step("start"))
        first(RUNNING)
        shown = terminal.screen()
        assert shown[0] == "before"
        assert shown[1].startswith("first   ━")
        assert shown[2].startswith("second")
        second.end("done")
        assert "100%  done" in terminal.screen()[2]
    assert terminal.screen() == ["before", ""]


def test_a_line_for_people_stands_above_the_bars(terminal: Terminal) -> None:
    with Board(stream=terminal) as board:
        board.add("first")(RUNNING)
        board.say("mind the gap")
        shown = terminal.screen()
        assert shown[0] == "mind the gap"
        assert shown[1].startswith("first")
    assert terminal.screen() == ["mind the gap", ""]


def test_a_terminal_that_becomes_wider_or_narrower_is_filled_again(terminal: Terminal) -> None:
    with Board(stream=terminal) as board:
        board.add("first")(step("lower", "x" * 300, 0.5))
        assert len(terminal.screen()[0]) > 60
        terminal.resize(200)
        until(lambda: len(terminal.screen()[-1]) > 180)


def test_more_bars_than_rows_are_counted(terminal: Terminal) -> None:
    terminal.resize(80, 6)
    with Board(stream=terminal) as board:
        shows = [board.add(f"m{number}") for number in range(10)]
        for show in shows:
            show(RUNNING)
        for show in shows[:3]:
            show.end("done")
        shown = terminal.screen()
        assert [each.split()[0] for each in shown] == ["m3", "m4", "m5", "m6", "and"]
        assert shown[-1] == "and 6 more"


def test_a_flood_of_progress_is_not_drawn_but_a_new_stage_is(terminal: Terminal) -> None:
    with ProgressLine("Llama", stream=terminal) as shown:
        for number in range(1000):
            shown(step("lower", str(number)))
        assert terminal.getvalue().count("lower") < 100
        shown(step("link"))
        assert "link" in terminal.screen()[0]
    assert terminal.screen() == [""]


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with ProgressLine("Llama", stream=terminal) as shown:
        shown(step("start"))
    assert terminal.getvalue() == "mlc-jit: Llama: start (1.3 s)\n"


def test_a_terminal_that_is_gone_ends_the_show_and_nothing_else() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    with ProgressLine("Llama", stream=Gone(), plain=False) as shown:
        shown(step("start"))
        shown(step("lower"))


# --- elsewhere ------------------------------------------------------------------------------------------------------


def test_elsewhere_a_plain_line_per_stage() -> None:
    stream = io.StringIO()
    with Board(stream=stream) as board:
        llama, gpt = board.add("Llama"), board.add("GPT")
        llama(step("start"))
        gpt(step("queued", "position 1, starts in about 20 s", left=80.0))
        llama(step("lower", "1 of 9", 0.1, 5.0, 45.0))
        llama(step("lower", "2 of 9", 0.2, 10.0, 40.0))
        llama(step("publish", elapsed=9.0))
        llama.end("done")
    assert stream.getvalue().splitlines() == [
        "mlc-jit: Llama: start (1.3 s)",
        "mlc-jit: GPT: queued: position 1, starts in about 20 s (1.3 s, about 1:20 left)",
        "mlc-jit: Llama: lower: 1 of 9 (5.0 s, 10%, about 0:45 left)",
        "mlc-jit: Llama: publish (9.0 s)",
    ]


def test_nothing_is_written_when_there_was_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("Llama"):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_is_never_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("Llama") as shown:
        shown(step("start"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "start" in err
