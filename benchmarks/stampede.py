"""A stampede: processes that all want one library which is not there. Upstream's own `jit()`, beside the daemon's.

    python benchmarks/stampede.py --python PYTHON [--pythonpath PATH] [--pass NAME ...] [--model FOLDER]
        [--processes 4 8] [--json]

PYTHON has mlc_llm. *upstream*: so many processes call its `jit()` at once on an empty cache, and each compiles for
itself. *daemon*: as many call ours, with the same interpreter as the compiler, on an empty cache, and a fresh daemon
compiles once. Wall time is from the first start to the last end; processor time is that of all processes, the daemon's
and its compilers' included. No goal but the ratios. Minutes: upstream's need processes x compile time / cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import TINY, rows

UPSTREAM = """
import sys
from pathlib import Path
from mlc_llm.interface.jit import jit
print(jit(Path(sys.argv[1]), {}, sys.argv[2]).model_lib_path)
"""
OURS = """
import sys
from mlc_jit import jit
print(jit(sys.argv[1], {}, sys.argv[2]).model_lib_path)
"""
QUANTIZED = {**TINY, "quantization": "q4f32_1"}
READY_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that has mlc_llm")
    parser.add_argument("--pythonpath", help="its PYTHONPATH")
    parser.add_argument("--pass", dest="passed", action="append", default=[], metavar="NAME", help="a variable for it")
    parser.add_argument("--model", type=Path, help="a model folder; else a tiny Llama of our own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if missing := [name for name in given.passed if name not in os.environ]:
        parser.error(f"--pass names what is not set: {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    try:
        report = {"processes": [measure(folder / str(count), given, count) for count in given.processes]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if given.json else table(report))
    return 0


def measure(folder: Path, given: argparse.Namespace, count: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    model = given.model
    if model is None:
        model = folder / "model"
        model.mkdir()
        (model / "mlc-chat-config.json").write_text(json.dumps(QUANTIZED, indent=2))
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLC_")}
    env |= {name: os.environ[name] for name in given.passed}
    env |= {"PYTHONSAFEPATH": "1", **({"PYTHONPATH": given.pythonpath} if given.pythonpath else {})}
    found: dict[str, Any] = {"count": count}
    for name, way in (("daemon", with_daemon), ("upstream", without)):
        print(f"{count} processes, {name} …", file=sys.stderr)
        cpu, begun = children(), time.monotonic()
        wall = way(folder / name, given, model, count, env)
        found[name] = {"wall_s": wall, "cpu_s": children() - cpu, "whole_s": time.monotonic() - begun}
    return found


def children() -> float:
    """Processor seconds of everything that was started here and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def together(command: list[str], env: dict[str, str], count: int) -> float:
    """Seconds from the first start until the last has ended."""
    with tempfile.TemporaryFile("w+") as said:
        begun = time.monotonic()
        started = [
            subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=said) for _ in range(count)
        ]
        failed = [process.wait() for process in started]
        wall = time.monotonic() - begun
        if any(failed):
            said.seek(0)
            raise SystemExit(f"a process failed:\n{said.read()[-2000:]}")
    return wall


def without(folder: Path, given: argparse.Namespace, model: Path, count: int, env: dict[str, str]) -> float:
    folder.mkdir()
    command = [given.python, "-c", UPSTREAM, str(model), given.device]
    return together(command, {**env, "MLC_LLM_HOME": str(folder)}, count)


def with_daemon(folder: Path, given: argparse.Namespace, model: Path, count: int, env: dict[str, str]) -> float:
    folder.mkdir()
    env = {
        **env,
        "MLC_LLM_HOME": str(folder),
        "MLC_JITD_RUNTIME_DIR": str(folder / "run"),
        "MLC_JITD_PYTHON": given.python,
        "MLC_JITD_PASS_ENV": ",".join(given.passed),
    }
    read, write = os.pipe()
    words = [sys.executable, "-P", "-m", "mlc_jitd", "run", "--ready-fd", str(write)]
    daemon = subprocess.Popen(words, env=env, cwd="/", pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        if not select.select([read], [], [], READY_SECONDS)[0] or os.read(read, 64) != b"ready\n":
            raise SystemExit("the daemon did not start")
        return together([sys.executable, "-P", "-c", OURS, str(model), given.device], env, count)
    finally:
        os.close(read)
        daemon.send_signal(signal.SIGINT)
        daemon.wait()


def table(report: dict[str, Any]) -> str:
    lines = []
    for each in report["processes"]:
        for what, label in (("wall_s", "wall"), ("cpu_s", "processor")):
            theirs, ours = each["upstream"][what], each["daemon"][what]
            cells = [f"{theirs:.0f} s", f"{ours:.0f} s", f"{ours / theirs:.2f}x"]
            lines.append((f"{each['count']} processes, {label}", cells))
    return rows("", ["upstream", "daemon", "ratio"], lines)


if __name__ == "__main__":
    sys.exit(main())
