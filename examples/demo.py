"""The whole way, on a fresh machine: a daemon, a real compile, a hit from another process, and the library at work.

Run by ``make demo``. It uses a cache of its own (.demo/home), which is emptied first, and stops its daemon at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "smollm2-135m"
HOME = ROOT / ".demo" / "home"
BIN = Path(sys.executable).parent

SETTLED_SECONDS = 2.5
"""A library that was written less than 2 s ago is hashed at every hit; what is shown is the ordinary hit."""

ASK = """
import sys, time
begun = time.perf_counter()
from mlc_jit import jit
imported = time.perf_counter()
found = jit(sys.argv[1], {}, "cpu", skip_log_jit_policy=True)
first = time.perf_counter()
jit(sys.argv[1], {}, "cpu", skip_log_jit_policy=True)
again = time.perf_counter()
print(f"    import mlc_jit          {(imported - begun) * 1e3:8.1f} ms")
print(f"    first jit() of a process{(first - imported) * 1e3:8.1f} ms")
print(f"    jit() once more         {(again - first) * 1e3:8.2f} ms")
"""


def main() -> int:
    """Run the demo; 0 when every step went well."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLC_", "PYTHONPATH"))}
    env |= {name: os.environ[name] for name in ("MLC_JITD_RUNTIME_DIR", "MLC_JITD_SOCKET") if name in os.environ}
    env["MLC_LLM_HOME"] = str(HOME)
    begun = time.monotonic()
    try:
        step(1, f"compile {MODEL.name} for this CPU; the first request starts the daemon")
        seconds, path = run(env, BIN / "mlc-jit", "compile", MODEL, "--device", "cpu", capture=True)
        print(f"    {relative(path)}\n    compiled in {seconds:.1f} s\n")

        time.sleep(SETTLED_SECONDS)
        step(2, "ask again from another process: a hit")
        run(env, sys.executable, "-c", ASK, MODEL)
        print()

        step(3, "what the daemon says")
        run(env, BIN / "mlc-jit", "status")
        print()

        step(4, "load the library and run it on random weights")
        run(env, sys.executable, ROOT / "examples" / "run_library.py", path)
        print()
    finally:
        run(env, BIN / "mlc-jit", "stop", check=False)
    print(f"\nDone in {time.monotonic() - begun:.0f} s. The cache is in {HOME.relative_to(ROOT)}.")
    return 0


def step(number: int, what: str) -> None:
    print(f"[{number}] {what}", flush=True)


def run(env: dict[str, str], *command: object, capture: bool = False, check: bool = True) -> tuple[float, str]:
    """Run a command that shows itself on the screen; its seconds, and what it printed if that is captured."""
    begun = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command], env=env, check=False, text=True, stdout=subprocess.PIPE if capture else None
    )
    if check and done.returncode:
        raise SystemExit(f"demo: {json.dumps([str(word) for word in command])} ended with {done.returncode}")
    return time.monotonic() - begun, (done.stdout or "").strip()


def relative(path: str) -> str:
    return str(Path(path).relative_to(ROOT)) if path.startswith(str(ROOT)) else path


if __name__ == "__main__":
    sys.exit(main())
