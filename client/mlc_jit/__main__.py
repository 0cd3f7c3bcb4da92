"""``python -m mlc_jit``: the same as the command ``mlc-jit``."""

from __future__ import annotations

import sys

from mlc_jit.cli import main

if __name__ == "__main__":
    sys.exit(main())
