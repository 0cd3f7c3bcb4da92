"""Six different configurations asked for at once: compiled one after another, beside two at a time with a core each.

    python benchmarks/parallel.py [--rounds 1] [--unknown] [--json]

Each run has a daemon of its own in a fresh temporary home, and compiles with the embedded toolchain. Before the clock
starts, one more configuration is compiled, so that the need of its like is known and the compiler is warm; with
``--unknown`` that is left out, and the first of the six runs alone in either case. Goal on 2 cores: a ratio of 0.75 at
most. What others use of the host meanwhile is shown: compiles yield to them, so that beside a busy neighbour two at a
time are no faster than one.
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
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from common import TINY

if TYPE_CHECKING:
    from mlc_jit import messages as m

MODELS = 6
GOAL = 0.75
LOOK_SECONDS = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="alternating runs of each kind; the medians are shown")
    parser.add_argument("--unknown", action="store_true", help="don't let the daemons learn what a compile needs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    single: list[dict[str, Any]] = []
    double: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        single.append(run(1, unknown=arguments.unknown))
        double.append(run(2, unknown=arguments.unknown))
    report = {
        "cores": psutil.cpu_count(),
        "rounds": arguments.rounds,
        "unknown": arguments.unknown,
        "one": summary(single),
        "two": summary(double),
        "ratio": round(statistics.median(b["seconds"] / a["seconds"] for a, b in zip(single, double, strict=True)), 2),
    }
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    return 0


def run(jobs: int, *, unknown: bool) -> dict[str, Any]:
    """All models through one fresh daemon."""
    folder = Path(tempfile.mkdtemp(prefix="mlcjit", dir="/tmp"))
    os.environ.update(
        MLC_LLM_HOME=str(folder / "home"),
        MLC_JITD_RUNTIME_DIR=str(folder / "run"),
        MLC_JITD_AUTOSTART="detached",
        MLC_JITD_TOOLCHAIN="tvm",
        MLC_JITD_JOBS=str(jobs),
        MLC_JITD_CORES_PER_JOB="1",
    )
    try:
        return measure(folder, jobs, unknown=unknown)
    finally:
        subprocess.run([sys.executable, "-m", "mlc_jit", "stop"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, jobs: int, *, unknown: bool) -> dict[str, Any]:
    from mlc_jit import api

    models = [model(folder / f"m{n}", vocabulary=256 + n) for n in range(MODELS)]
    with ThreadPoolExecutor(MODELS) as pool:
        # A request for what is not there starts the daemon.
        if not unknown:
            print(f"{jobs} at a time: one compile to learn from …", file=sys.stderr)
            pool.submit(api.jit, model(folder / "m", vocabulary=255), {}, "cpu").result()
        else:
            subprocess.run([sys.executable, "-m", "mlc_jitd", "run", "--detach"], check=True)
        print(f"{jobs} at a time: {MODELS} compiles …", file=sys.stderr)
        before, begun = (busy(), ours()), time.perf_counter()
        calls = [pool.submit(api.jit, each, {}, "cpu") for each in models]
        running: Counter[int] = Counter()
        while not all(call.done() for call in calls):
            running[sum(job.state == "running" for job in status().jobs)] += 1
            time.sleep(LOOK_SECONDS)
        paths = {call.result().model_lib_path for call in calls}
        seconds = time.perf_counter() - begun
        whole, own = busy() - before[0], ours() - before[1]
    assert len(paths) == MODELS
    compiles = [record for record in manifests(folder) if not record["model"]["path"].endswith("/m")]
    assert len(compiles) == MODELS
    peaks = sorted((record["compile"]["peak_memory"] for record in compiles), reverse=True)
    return {
        "seconds": seconds,
        "most_running": max(running),
        "compile_seconds": statistics.median(record["compile"]["seconds"] for record in compiles),
        "peak_memory": peaks[0],
        "peak_memory_at_once": sum(peaks[:jobs]),
        "our_cores": own / seconds,
        "other_cores": max(0.0, whole - own) / seconds,
    }


def model(folder: Path, *, vocabulary: int) -> Path:
    folder.mkdir()
    inner = {**TINY["model_config"], "vocab_size": vocabulary}
    (folder / "mlc-chat-config.json").write_text(json.dumps({**TINY, "model_config": inner}))
    return folder


def status() -> m.Status:
    from mlc_jit import channel
    from mlc_jit import messages as m
    from mlc_jit.locations import locate

    for reply in channel.query(locate().socket, lambda id_: m.StatusRequest(id=id_)):
        if isinstance(reply, m.Status):
            return reply
    raise RuntimeError("the daemon did not say how it is")


def manifests(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in (folder / "home" / "model_lib").glob("*.json")]


def busy() -> float:
    """Core seconds that the whole host has used."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def ours() -> float:
    """Core seconds that the daemon and the compilers below it have used, ended ones too."""
    daemon = psutil.Process(status().pid)
    return sum(sum(each.cpu_times()[:4]) for each in [daemon, *daemon.children(recursive=True)])


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians; of memory and of what ran at a time, the most."""
    most = ("most_running", "peak_memory", "peak_memory_at_once")
    return {
        name: max(values) if name in most else round(statistics.median(values), 2)
        for name, values in ((name, [each[name] for each in runs]) for name in runs[0])
    }


def table(report: dict[str, Any]) -> str:
    one, two = report["one"], report["two"]
    rows = [
        ("total", "seconds", 1, " s"),
        ("one compile, median", "compile_seconds", 1, " s"),
        ("most running at a time", "most_running", 0, ""),
        ("peak memory of one compile", "peak_memory", 0, " MiB"),
        ("of all that may run at a time", "peak_memory_at_once", 0, " MiB"),
        ("cores used by it", "our_cores", 1, ""),
        ("cores used by others", "other_cores", 1, ""),
    ]
    lines = [
        (
            f"{MODELS} configurations, {report['cores']} cores, "
            f"{'need unknown' if report['unknown'] else 'need known, compiler warm'}; "
            f"{report['rounds']} run{'s'[: report['rounds'] != 1]} of each"
        ),
        f"{'':32}{'one by one':>14}{'two at a time':>16}",
    ]
    for title, name, digits, unit in rows:
        scale = 2**20 if unit == " MiB" else 1
        cells = [f"{each[name] / scale:.{digits}f}{unit}" for each in (one, two)]
        lines.append(f"{title:32}{cells[0]:>14}{cells[1]:>16}")
    met = "met" if report["ratio"] <= GOAL else "missed"
    lines.append(f"{'ratio of the totals':32}{'':>14}{report['ratio']:>15.2f}x   (goal {GOAL}x at most: {met})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
