"""``python -m mlc_llm compile ...``."""

from __future__ import annotations

import sys


def main() -> None:
    """Only ``compile`` has a double."""
    if sys.argv[1:2] != ["compile"]:
        sys.exit("the double of mlc_llm only knows `compile`")
    from mlc_llm.cli import compile as cli

    cli.main(sys.argv[2:])


if __name__ == "__main__":
    main()
