from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mlc_jitd.config import Settings
from mlc_jitd.sources import PREFIX

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"\bMLC_JITD_[A-Z]+(?:_[A-Z]+)*\b")


def test_every_variable_that_the_code_names_is_in_one_of_the_tables_and_the_reverse():
    code = "".join(path.read_text() for room in ("client", "daemon") for path in (ROOT / room).rglob("*.py"))
    settings = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    named = set(NAME.findall(code)) | settings
    pages = [(ROOT / "docs" / page).read_text() for page in ("variables.md", "configuration.md")]
    assert set(NAME.findall("".join(pages))) - {"MLC_JITD_SHARED"} == named - {"MLC_JITD_SHARED"}
    rows = "".join(line for page in pages for line in page.splitlines() if line.startswith("|"))
    assert set(NAME.findall(rows)) >= named - {"MLC_JITD_JOB", "MLC_JITD_OWNER", "MLC_JITD_SHARED"}, "each has a row"
