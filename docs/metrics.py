"""Write the table of metrics in seeing.md anew, from ``mlc_jitd.metrics.catalog``; `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from mlc_jitd.metrics.catalog import markdown

BEGIN, END = "<!-- metrics: made by `make docs` -->\n", "<!-- end of metrics -->\n"


def main() -> None:
    """Do it."""
    page = Path(__file__).with_name("seeing.md")
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(head + BEGIN + markdown() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
