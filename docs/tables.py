"""Write the tables of settings and metrics anew, from what they describe; `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from mlc_jitd.metrics import catalog
from mlc_jitd.upkeep import config

TABLES = {"configuration.md": ("settings", config.markdown), "seeing.md": ("metrics", catalog.markdown)}
"""Page, what stands in its marks, and who writes that."""


def main() -> None:
    """Do it."""
    for name, (what, markdown) in TABLES.items():
        begin, end = f"<!-- {what}: made by `make docs` -->\n", f"<!-- end of {what} -->\n"
        page = Path(__file__).with_name(name)
        head, _, rest = page.read_text().partition(begin)
        page.write_text(head + begin + markdown() + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
