"""What the benchmarks of the hit path share: a place of their own, a model, bare servers beside, and figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TINY = {
    "version": "0.1.0",
    "model_type": "llama",
    "quantization": "q0f32",
    "model_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "rms_norm_eps": 1e-05,
        "vocab_size": 256,
        "position_embedding_base": 10000,
        "context_window_size": 256,
        "prefill_chunk_size": 64,
        "max_batch_size": 2,
    },
    "context_window_size": 256,
    "prefill_chunk_size": 64,
    "conv_template": {"name": "x" * 1500},  # a real config has 2 to 5 KB
}

ROUTER = """
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind(f"ipc://{sys.argv[1]}")
answer = b"x" * int(sys.argv[2])
print("ready", flush=True)
while True:
    frames = router.recv_multipart()
    router.send_multipart([frames[0], b"", answer])
"""

UNIX = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
answer = b"x" * int(sys.argv[2])
size = int(sys.argv[3])
print("ready", flush=True)
peer, _ = server.accept()
while True:
    got = 0
    while got < size:
        got += len(peer.recv(size - got) or sys.exit())
    peer.sendall(answer)
"""


@contextlib.contextmanager
def ground(**variables: str) -> Iterator[tuple[Path, Path]]:
    """A folder and a model in it; the daemon that ``jit()`` starts there ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    os.environ.update(MLC_LLM_HOME=str(folder / "home"), MLC_JITD_RUNTIME_DIR=str(folder / "run"))
    os.environ["MLC_JITD_AUTOSTART"] = "detached"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode: nobody compiles it anew
    os.environ.update(variables)
    try:
        yield folder, model(folder / "tiny")
    finally:
        pid = None
        with contextlib.suppress(RuntimeError):  # none is running
            pid = daemon()
        subprocess.run([sys.executable, "-m", "mlc_jit", "stop", "--now"], check=False, stdout=subprocess.DEVNULL)
        with contextlib.suppress(psutil.Error):
            if pid is not None:
                psutil.Process(pid).wait(20)  # it writes there until its end
        shutil.rmtree(folder, ignore_errors=True)


def model(folder: Path, **fields: object) -> Path:
    """A model's folder."""
    folder.mkdir()
    (folder / "mlc-chat-config.json").write_text(json.dumps({**TINY, **fields}, indent=2))
    return folder


@contextlib.contextmanager
def server(code: str, *words: str | Path | int) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a server's code, once it is ready."""
    command = [sys.executable, "-c", code, *map(str, words)]
    # A session of its own, as the daemon has: on a host with others the kernel's autogroups weigh whole sessions.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def daemon() -> int:
    """The daemon's pid."""
    from mlc_jit import channel
    from mlc_jit import messages as m
    from mlc_jit.locations import locate

    status = next(iter(channel.query(locate().socket, lambda id_: m.StatusRequest(id=id_))))
    assert isinstance(status, m.Status)
    return status.pid


def pin(servers: list[int]) -> None:
    """This process, and what it starts from now on, to the last core; all threads of the servers to the first."""
    first, *_, last = sorted(os.sched_getaffinity(0))
    for pid, core in ((os.getpid(), last), *((pid, first) for pid in servers)):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def processor_us(pid: int) -> float:
    """Processor time of all threads of a process so far, in microseconds; 0 where the kernel does not tell."""
    found = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            found += int(task.read_text().split()[0]) / 1e3
    return found


def timed(call: Callable[[], object], calls: int) -> list[float]:
    """Microseconds of each call."""
    found = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        found.append((time.perf_counter_ns() - begun) / 1e3)
    return found


def p50(values: list[float]) -> float:
    return statistics.median(values)


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def rows(title: str, heads: list[str], lines: list[tuple[str, list[str]]]) -> str:
    """A table for a terminal."""
    width = max(len(name) for name, _ in lines) + 2
    table = [title, " " * width + "".join(f"{head:>12}" for head in heads)]
    return "\n".join([*table, *(f"{name:{width}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines)])
