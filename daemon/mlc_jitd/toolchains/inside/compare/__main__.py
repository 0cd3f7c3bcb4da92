"""Do two compiled libraries compute the same? `python -P FOLDER QUESTION ANSWER`, both files of JSON.

Runs in the toolchain's interpreter, on the standard library, tvm and numpy. Both libraries are loaded into this
process and called with the same random weights and inputs on the CPU; what they give is compared bit for bit. Nothing
is said of the files' bytes: equal configurations compile to different ones.

The question, one JSON object::

    {"first": PATH, "second": PATH, "config": {...mlc-chat-config...} | null, "seed": 0, "memory": BYTES | null}

The answer, one JSON object::

    equal        true, false, or null when nothing could be compared
    refused      why nothing was run, or ""
    functions    {NAME: {"verdict": "equal" | "different" | "not-compared", "runs": N, "skipped": N, "values": N,
                         "why": TEXT, "largest": FLOAT}}    each function and kernel of the contract; skipped: runs that
                 neither library would do, `why` says why
    metadata     names of the fields of `_metadata` that differ
    names        {"first": [...], "second": [...]}       functions and kernels that only one of them has
    kernels      {"called": [...], "by_cache": [...], "not_called": [...]}    what the functions called on the way, what
                 the KV cache was given to call as its sequences need, and what nothing called
    memory       {"needed": BYTES, "available": BYTES | null}
    seconds      FLOAT

`memory_usage` in the metadata and names of kernels may differ without a difference in what is computed: they are told
and don't count. `mlc-jitd compare: NAME` on stderr says what runs, so that a crash has a name.

Not here: which libraries, and what follows (mlc_jitd.comparison).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from sides import Refused


def main(question: Path, answer: Path) -> int:
    """Answer one question; 0 when it was answered, whatever the answer is."""
    began = time.monotonic()
    asked = json.loads(question.read_text(encoding="utf-8"))
    found: dict[str, Any] = {"equal": None, "refused": "", "functions": {}}
    try:
        from contract import Contract

        comparison = Contract(asked)
        try:
            comparison.run()
        except Refused as why:
            found["refused"] = str(why)
        found = comparison.answer(found["refused"])
    except Refused as why:
        found["refused"] = str(why)
    except ImportError as error:
        found["refused"] = f"the toolchain's interpreter lacks what running a library takes: {error}"
    found["seconds"] = round(time.monotonic() - began, 3)
    answer.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
