"""A worker of a compile farm: one task in a Dask worker, by the same identity, store, locks and build as anywhere.

It works in this host's own cache home, so what it knows is not compiled again, and kernels are reused. What does not
belong here: Dask's side of who asks (`fleet.farm`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit import variables
from mlc_jit.errors import JitError
from mlc_jit.locations import made_home
from mlc_jitd.app import make_work
from mlc_jitd.build import StopSignal
from mlc_jitd.compiling import Order
from mlc_jitd.config import Settings
from mlc_jitd.fleet import farmwork
from mlc_jitd.reports import internal
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.jobs import Settings as QueueSettings
from mlc_jitd.store import Found
from mlc_jitd.work import Built

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlc_jitd.toolchains.base import Stage
    from mlc_jitd.work import Work

logger = logging.getLogger(__name__)

WANTED_SECONDS = 1.0
"""How often it is looked whether anybody still wants the task."""


def carry_out(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task; what comes back is `farmwork.reply_of` or `farmwork.failure_of`, or names the parts that differ."""
    from distributed import get_worker  # noqa: PLC0415 - only workers have it

    worker = get_worker()

    def report(stage: Stage) -> None:
        worker.log_event(task["topic"], {"stage": stage.name, "detail": stage.detail, "worker": str(worker.name)})

    def wanted() -> bool:
        state = worker.state.tasks.get(task["topic"])
        return state is not None and state.state not in {"cancelled", "released", "forgotten"}

    stop = StopSignal()
    over = threading.Event()
    threading.Thread(target=_watch, args=(wanted, stop, over), name="wanted", daemon=True).start()
    try:
        return _make(task, report, stop, name=str(worker.name))
    except JitError as error:
        return farmwork.failure_of(error)
    except Exception as error:
        logger.exception("a task could not be carried out")
        return farmwork.failure_of(internal(error))
    finally:
        over.set()


def _watch(wanted: Callable[[], bool], stop: StopSignal, over: threading.Event) -> None:
    """End a compile that nobody waits for any more: Dask lets go of such a task and leaves its thread alone."""
    while not over.wait(WANTED_SECONDS):
        if not wanted():
            stop.stop("cancelled")
            return


@functools.lru_cache(1)
def _work() -> tuple[Work, Settings]:
    settings = Settings.load(strict=False)
    return make_work(made_home(), settings), settings


def interpreter() -> str:
    """The one whose compiler this worker uses."""
    return os.environ.get("MLC_JITD_PYTHON") or sys.executable


def _make(task: dict[str, Any], report: Callable[[Stage], None], stop: StopSignal, *, name: str) -> dict[str, Any]:
    if task.get("format") != farmwork.FORMAT:
        return {"differs": ["the version of mlc-jitd"]}
    asked = m.decode(task["request"], m.REQUESTS, strict=True)
    assert isinstance(asked, m.JitRequest)
    own = {key: value for key, value in variables.collect(os.environ).items() if not variables.is_keyed(key)}
    request = dataclasses.replace(asked, python=interpreter(), environment={**own, **asked.environment})
    work, settings = _work()
    found = work.look_up(request)
    differs = farmwork.differences(task, found.identity)
    if differs:
        return {"differs": differs}
    if isinstance(found.answer, Found) and request.policy != "REDO":
        entry = found.answer.entry
    else:
        order = Order.alone(found.identity, request, capacity.read(), cores_per_job=settings.cores_per_job)
        built = work.build(order, report, stop)
        assert isinstance(built, Built), "a worker is in no fleet of its own"
        entry = built.entry
    record = entry.manifest.compile
    return farmwork.reply_of(Path(entry.path).read_bytes(), record, entry.manifest.degraded, name)


def resources(jobs: int = 0) -> dict[str, float]:
    """What this host offers a farm.

    Args:
        jobs: Compiles at a time; 0 for what the cores allow.
    """
    work, settings = _work()
    host = capacity.read()
    places = jobs or slots(host, QueueSettings(jobs=settings.jobs or None)).jobs
    found: dict[str, float] = {farmwork.PLACE: places}
    found[farmwork.MEMORY] = max(host.memory_available, farmwork.MEMORY_BYTES)
    own = variables.collect(os.environ)
    for choice in ("mlc_llm", "tvm"):
        try:
            facts = work.identifier.toolchain(interpreter(), choice, own)
        except JitError as error:
            logger.info("this worker does not offer %s: %s", choice, error.message)
        else:
            found[farmwork.toolchain(facts.fingerprint)] = places
    return found


def _offer(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    if not name or not amount.isdigit() or not name.isprintable() or " " in name:
        raise ValueError(f"{text!r} is no resource: NAME=N, as in cuda-sm_90=1")
    return name, float(amount)


def main(url: str, jobs: int = 0, more: Sequence[str] = ()) -> int:
    """``mlc-jitd worker``: become a Dask worker that offers what this host has; the exit status if it can't.

    Args:
        url: The scheduler's.
        jobs: Compiles at a time; 0 for what the cores allow.
        more: Further resources, as ``NAME=N``.
    """
    scheme, _, place = url.partition("://")
    if scheme not in {"dask", "dasks"} or not place:
        sys.stderr.write(f"mlc-jitd: {url!r} is no farm: dask://host:port\n")
        return 2
    try:
        offered = resources(jobs) | dict(map(_offer, more))
    except (JitError, ValueError) as error:
        sys.stderr.write(f"mlc-jitd: {error}\n")
        return 1
    words = " ".join(f"{name}={amount:.0f}" for name, amount in offered.items())
    sys.stderr.write(f"mlc-jitd: this worker offers {words}\n")
    places = int(offered[farmwork.PLACE])
    return os.execv(  # noqa: S606 - Dask's own program, in this interpreter
        sys.executable,
        [
            sys.executable, "-m", "distributed.cli.dask_worker", f"{'tls' if scheme == 'dasks' else 'tcp'}://{place}",
            "--nworkers", "1", "--nthreads", str(places), "--resources", words, "--no-dashboard",
            "--memory-limit", "0", "--death-timeout", "60",
        ],
    )  # fmt: skip
