"""What people see: figures, tables, overrides on the command line."""

from __future__ import annotations

import pytest

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
