"""Turn a device text into the target that a compile will use: `python -P resolve.py`, one JSON object in, one out.

stdin:   {"device": "cpu" | "cpu:0" | "auto" | "llvm" | "{target in JSON}"}
stdout:  {"target": {…}, "text": "what to hand to compile.py --target", "local": true | false}
    or   {"error": "a sentence", "kind": "device-invalid"}

`target` is canonical and carries its host; `local` says whether the local CPU was looked at. The exit status is 0 for
either answer. Opens no device.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mlc_jitd_tvm import targets
from mlc_jitd_tvm.errors import InputError


def main() -> int:
    """Answer one question."""
    question = json.loads(sys.stdin.read())
    try:
        target, local = targets.resolve(str(question["device"]))
    except InputError as error:
        answer = {"error": str(error), "kind": "device-invalid"}
    else:
        answer = {"target": targets.exported(target), "text": targets.canonical(target), "local": local}
    print(json.dumps(answer, sort_keys=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
