"""Round trip of a cache hit through ``jit()``, beside a bare REQ/ROUTER ping-pong with messages of the same sizes.

    python benchmarks/hit.py [--blocks 20] [--calls 500] [--json]

Alternating blocks in one run, so that the machine's mood hits both alike; the ratio is the median of the blocks'
ratios. A daemon of its own, in a temporary home, with one tiny library compiled by the embedded toolchain.
"""

from __future__ import annotations

import argparse
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

if TYPE_CHECKING:
    from collections.abc import Callable

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

ECHO = """
import sys, zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind(f"ipc://{sys.argv[1]}")
answer = b"x" * int(sys.argv[2])
print("ready", flush=True)
while True:
    frames = router.recv_multipart()
    router.send_multipart([frames[0], b"", answer])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20, help="alternating blocks of each kind")
    parser.add_argument("--calls", type=int, default=500, help="calls in a block")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    os.environ.update(MLC_LLM_HOME=str(folder / "home"), MLC_JITD_RUNTIME_DIR=str(folder / "run"))
    os.environ["MLC_JITD_AUTOSTART"] = "detached"
    model = folder / "tiny"
    model.mkdir()
    (model / "mlc-chat-config.json").write_text(json.dumps(TINY, indent=2))
    try:
        report = measure(folder, model, arguments.blocks, arguments.calls)
    finally:
        subprocess.run([sys.executable, "-m", "mlc_jit", "stop"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def measure(folder: Path, model: Path, blocks: int, calls: int) -> dict[str, object]:
    import zmq

    from mlc_jit import api
    from mlc_jit import messages as m

    print("compiling a tiny library …", file=sys.stderr)
    api.jit(model, {}, "cpu", skip_log_jit_policy=True)
    request = api.make_request(model, {}, "cpu", None, policy="ON")
    asked = m.encode(request)
    answered = m.encode(api.ask(request))
    socket = folder / "echo"
    echo = subprocess.Popen(
        [sys.executable, "-c", ECHO, str(socket), str(len(answered))], stdout=subprocess.PIPE, text=True
    )
    assert echo.stdout is not None
    echo.stdout.readline()
    context = zmq.Context()
    req = context.socket(zmq.REQ)
    req.connect(f"ipc://{socket}")

    def ping() -> None:
        req.send(asked)
        req.recv()

    def hit() -> None:
        api.jit(model, {}, "cpu", skip_log_jit_policy=True)

    try:
        for warm in (ping, hit):
            timed(warm, calls)
        pairs = [(timed(ping, calls), timed(hit, calls)) for _ in range(blocks)]
    finally:
        echo.terminate()
        echo.wait()
        echo.stdout.close()
        req.close(0)
        context.term()
    return {
        "request_bytes": len(asked),
        "reply_bytes": len(answered),
        "blocks": blocks,
        "calls": calls,
        "ping_us": summary([ping for ping, _ in pairs]),
        "hit_us": summary([hit for _, hit in pairs]),
        "ratio_p50": round(statistics.median(p50(hit) / p50(ping) for ping, hit in pairs), 2),
        "ratio_p99": round(statistics.median(p99(hit) / p99(ping) for ping, hit in pairs), 2),
    }


def timed(call: Callable[[], None], calls: int) -> list[float]:
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


def summary(blocks: list[list[float]]) -> dict[str, float]:
    return {
        "p50": round(statistics.median(map(p50, blocks)), 1),
        "p99": round(statistics.median(map(p99, blocks)), 1),
    }


def table(report: dict[str, object]) -> str:
    ping, hit = report["ping_us"], report["hit_us"]
    assert isinstance(ping, dict)
    assert isinstance(hit, dict)
    return "\n".join(
        [
            (
                f"request {report['request_bytes']} bytes, reply {report['reply_bytes']} bytes; "
                f"medians of {report['blocks']} alternating blocks of {report['calls']} calls"
            ),
            f"{'':28}{'p50':>10}{'p99':>10}",
            f"{'bare REQ/ROUTER ping-pong':28}{ping['p50']:>7.0f} us{ping['p99']:>7.0f} us",
            f"{'jit(), a hit':28}{hit['p50']:>7.0f} us{hit['p99']:>7.0f} us",
            f"{'ratio':28}{report['ratio_p50']:>9}x{report['ratio_p99']:>9}x",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
