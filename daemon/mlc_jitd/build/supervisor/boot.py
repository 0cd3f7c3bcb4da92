"""The file that is run: ``python -I -S -X utf8 boot.py``, the job on stdin, the report on stdout.

A script is compiled anew at each start and an imported module is not, so nothing lives here.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Make the package beside this file importable, last on the path so that it hides nothing, and run it."""
    sys.path.append(__file__.rpartition("/supervisor/")[0])
    from supervisor import loop  # type: ignore[import-not-found] # noqa: PLC0415  # found by the line above

    loop.main()


if __name__ == "__main__":
    main()
