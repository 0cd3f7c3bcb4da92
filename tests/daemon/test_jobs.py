"""What a job is told that it may use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlc_jitd.engine.jobs import carry_out
from mlc_jitd.engine.ledger import JobState
from mlc_jitd.schedule.jobs import Grant

GIB = 1 << 30


@pytest.mark.parametrize(
    ("retried", "granted", "total", "bound"),
    [
        (False, 1 * GIB, 14 * GIB, 14 * GIB),
        (True, 10 * GIB, 14 * GIB, 10 * GIB),
        (True, 14 * GIB, 14 * GIB, 14 * GIB),
        (True, 0, 14 * GIB, 14 * GIB),
        (False, 1 * GIB, 0, None),
    ],
)
def test_memory_is_bounded_by_the_host_and_the_second_try_by_its_grant(
    retried: bool, granted: int, total: int, bound: int | None
) -> None:
    orders = []
    work = SimpleNamespace(build=lambda order, *_: orders.append(order))
    request = SimpleNamespace(model_path="m", device="cpu", acceleration="on")
    asking = SimpleNamespace(request=request, asked_at=0.0)
    state = JobState(SimpleNamespace(), asking, 0.0, SimpleNamespace(), SimpleNamespace(), retried=retried)
    grant = Grant(job="k", cores=2, memory=granted)
    carry_out(work, state, grant, print, redo=False, background=False, memory_total=total)
    assert [order.memory for order in orders] == [bound]
