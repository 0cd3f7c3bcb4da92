from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mlc_jitd.config import PREFIX, Settings

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bMLC_JITD_[A-Z]+(?:_[A-Z]+)*\b")


def test_every_variable_that_the_code_names_is_in_the_one_table_and_the_reverse():
    code = "".join(path.read_text() for room in ("client", "daemon") for path in (ROOT / room).rglob("*.py"))
    named = set(NAME.findall(code)) | {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert set(NAME.findall((ROOT / "docs" / "variables.md").read_text())) == named


def test_the_table_gives_the_defaults_of_the_settings():
    table = (ROOT / "docs" / "variables.md").read_text()
    for field in dataclasses.fields(Settings):
        default = field.default if isinstance(field.default, str) else f"{field.default:g}"
        assert f"| `{PREFIX}{field.name.upper()}` | {default} |" in table
