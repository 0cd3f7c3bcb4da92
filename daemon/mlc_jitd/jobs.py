"""What the engine holds of requests and jobs, and the carrying out of one job in a thread of its own. No decisions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError
from mlc_jitd.build import StopSignal
from mlc_jitd.reports import internal
from mlc_jitd.schedule.jobs import Demand
from mlc_jitd.work import Built, Order, Report, Work

if TYPE_CHECKING:
    from mlc_jitd import broker as b
    from mlc_jitd.headway import Headway
    from mlc_jitd.identity import Identity
    from mlc_jitd.likeness import Expectation
    from mlc_jitd.schedule.jobs import Grant
    from mlc_jitd.server import Peer

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Asking:
    """A request on its way.

    Attributes:
        identity: What exactly is asked, once it was looked up.
        again: Whether it was looked up anew because the compiler changed under it.
        why: Why it was no hit, in words.
    """

    peer: Peer
    request: m.JitRequest
    asked_at: float
    identity: Identity | None = None
    again: bool = False
    why: str = ""


@dataclass(slots=True)
class JobState:
    """What the engine holds for one of the broker's jobs."""

    identity: Identity
    asking: Asking
    submitted: float
    like: Expectation
    headway: Headway
    stop: StopSignal = field(default_factory=StopSignal)
    retried: bool = False


def carry_out(
    work: Work,
    state: JobState,
    grant: Grant,
    report: Report,
    *,
    redo: bool,
    background: bool,
    memory_total: int,
) -> Built | JitError:
    """Do one admitted job; blocks until it is over, and raises nothing.

    Args:
        work: Compiles and publishes.
        state: The job.
        grant: What it may use.
        report: Told each stage, from this thread.
        redo: An entry that is there already is no answer.
        background: Nobody waits for it.
        memory_total: Bytes that compiles may use on this host, 0 for unknown. Who takes more is ended before the host
            suffers.
    """
    request = state.asking.request
    order = Order(
        identity=state.identity,
        model_path=request.model_path,
        device=request.device,
        redo=redo,
        asked_at=state.asking.asked_at,
        cores=grant.cores,
        memory=min(filter(None, (grant.memory if state.retried else 0, memory_total)), default=None),
        background=background,
        accelerated=request.acceleration != "off" and not state.retried,
    )
    try:
        return work.build(order, report, state.stop)
    except JitError as error:
        return error
    except Exception as error:
        logger.exception("a compile could not be carried out")
        return internal(error)


def demand_of(key: str, state: JobState, *, interactive: bool) -> Demand:
    """A job as the queue sees it."""
    peer = state.asking.peer
    return Demand(
        job=key,
        client=str(peer.pid) if peer.pid else peer.identity.hex(),
        user=peer.uid,
        submitted=state.submitted,
        interactive=interactive,
        memory=state.like.memory,
        estimate=state.like.seconds,
    )


def job_row(job: b.Job, state: JobState, now: float) -> m.JobReport:
    """A job as a status shows it."""
    step = job.step
    return m.JobReport(
        key=job.key,
        state=job.state,
        model=state.asking.request.model_path,
        device=state.asking.request.device,
        stage=step.stage if step else "",
        detail=step.detail if step else "",
        fraction=step.fraction if step else None,
        left=step.left if step else None,
        elapsed=now - state.submitted,
        waiters=len(job.waiters),
    )
