"""``mlc_llm compile`` as a double: upstream's arguments, and a behaviour that the config's ``double`` field commands.

In the order in which they happen; all are optional:

    print          lines to print on stderr, as they are
    stages         false to leave out the log lines of a real compile
    degraded       true to log that flashinfer fell back
    ignore_term    true to ignore SIGTERM
    children       start so many processes that sleep for ever, in the compiler's group
    setsid         start so many that leave the group and the session first
    memory         touch so many megabytes
    flood          print so many megabytes of log
    sleep          so many seconds
    wait_for       wait until this path exists
    hang           true to sleep for ever
    signal         die by this signal
    output         false to write no library; text to write it instead of the default bytes
    size           pad the library to so many bytes
    raise          text of a ValueError to raise, with its traceback
    exit           exit status

``MLC_DOUBLE_LOG`` names a file that gets one line per event: ``PID start``, ``PID child PID``, ``PID done``. The
library's default bytes are those of the file that ``MLC_DOUBLE_LIBRARY`` names, if it is set, and behind them one JSON
line with what was asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STAGES = (
    "auto_config.py:67: Found model configuration: {config}",
    "compile.py:144: Creating model from: DoubleConfig()",
    "compile.py:162: Exporting the model to TVM compiler",
    "compile.py:168: Running optimizations using TVM",
    "pipeline.py:57: Running TVM Dlight low-level optimizations",
    "pipeline.py:57: Compilation complete! Exporting to disk",
)


def main(argv: list[str]) -> None:
    """Parse as upstream does, then behave."""
    args = _parse(argv)
    config = json.loads(args.model.read_text(encoding="utf-8"))
    told = config.get("double", {})
    _note("start")
    for line in told.get("print", ()):
        print(line, file=sys.stderr, flush=True)
    if told.get("stages", True):
        for line in STAGES:
            _log(line.format(config=args.model))
    if told.get("degraded"):
        _log("dispatch_kv_cache_creation.py:236: Error caught when creating FlashInfer PagedKVCache: no nvcc")
    _misbehave(told)
    if told.get("output", True) is not False:
        args.output.write_bytes(_library(args, config, told))
    if "raise" in told:
        raise ValueError(told["raise"])
    if told.get("stages", True):
        _log(f"compile.py:225: Generated: {args.output}")
    _note("done")
    sys.exit(told.get("exit", 0))


def _misbehave(told: dict[str, Any]) -> None:
    if told.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for leaves, count in ((False, told.get("children", 0)), (True, told.get("setsid", 0))):
        for _ in range(count):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=leaves)
            _note(f"child {child.pid}")
    eaten = bytearray(int(told.get("memory", 0) * (1 << 20)))
    eaten[::4096] = b"x" * len(eaten[::4096])
    line = "flood " * 170 + "\n"
    for _ in range(int(told.get("flood", 0) * (1 << 20) / len(line))):
        sys.stderr.write(line)
    time.sleep(told.get("sleep", 0))
    while "wait_for" in told and not Path(told["wait_for"]).exists():
        time.sleep(0.01)
    while told.get("hang"):
        time.sleep(3600)
    if "signal" in told:
        signal.signal(told["signal"], signal.SIG_DFL) if told["signal"] != signal.SIGKILL else None
        os.kill(os.getpid(), told["signal"])


def _library(args: argparse.Namespace, config: dict[str, Any], told: dict[str, Any]) -> bytes:
    if isinstance(told.get("output"), str):
        return told["output"].encode()
    given = os.environ.get("MLC_DOUBLE_LIBRARY")
    body = Path(given).read_bytes() if given else b""
    asked = {
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "device": args.device,
        "opt": args.opt,
        "overrides": args.overrides,
        "prefix": args.system_lib_prefix,
    }
    body += b"\n" + json.dumps(asked, sort_keys=True).encode() + b"\n"
    return body.ljust(told.get("size", 0), b"\0")


def _parse(argv: list[str]) -> argparse.Namespace:
    def model(text: str) -> Path:
        path = Path(text)
        path = path / "mlc-chat-config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path} does not exist.")
        return path

    def output(text: str) -> Path:
        path = Path(text)
        if path.is_dir() or not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"Directory does not exist: {path.parent}")
        return path

    def prefix(text: str) -> str:
        if text and not re.match(r"^[a-zA-Z_][a-zA-Z0-9_]*$", text):
            raise argparse.ArgumentTypeError("Invalid prefix.")
        return text

    parser = argparse.ArgumentParser("mlc_llm compile")
    parser.add_argument("model", type=model)
    parser.add_argument("--quantization")
    parser.add_argument("--model-type", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="auto")
    parser.add_argument("--opt", default="O2")
    parser.add_argument("--system-lib-prefix", type=prefix, default="auto")
    parser.add_argument("--output", "-o", type=output, required=True)
    parser.add_argument("--overrides", default="")
    parser.add_argument("--debug-dump")
    return parser.parse_args(argv)


def _log(message: str) -> None:
    print(time.strftime(f"[%Y-%m-%d %H:%M:%S] INFO {message}"), file=sys.stderr, flush=True)


def _note(event: str) -> None:
    path = os.environ.get("MLC_DOUBLE_LOG")
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{os.getpid()} {event}\n".encode())
        os.close(descriptor)
