"""Write the table of settings in configuration.md anew, from ``mlc_jitd.config``; `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from mlc_jitd.upkeep.config import markdown

BEGIN, END = "<!-- settings: made by `make docs` -->\n", "<!-- end of settings -->\n"


def main() -> None:
    """Do it."""
    page = Path(__file__).with_name("configuration.md")
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(head + BEGIN + markdown() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
