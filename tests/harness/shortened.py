"""``mlc-jitd`` whose waits are shorter: constants of its modules are others, told as JSON in the second argument.

Run by path; the first argument is a word by which the tests know a daemon.
"""

from __future__ import annotations

import importlib
import json
import sys

if __name__ == "__main__":
    from mlc_jitd.__main__ import main

    for name, value in json.loads(sys.argv[2]).items():
        module, _, constant = name.rpartition(".")
        room = importlib.import_module(module)
        assert isinstance(getattr(room, constant), type(value)), name
        setattr(room, constant, value)
    sys.exit(main(sys.argv[3:]))
