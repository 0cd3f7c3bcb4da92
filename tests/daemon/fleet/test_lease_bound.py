"""Nobody waits for one holder longer than it compiles and the lease time: a simulated fleet that loses hosts.

The hosts run the daemon's own lease code against the simulated store of ``benchmarks/fleet_world.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from harness import fleet
from mlc_jitd.fleet.lease import Have, Local, Terms, Turn

world_of = fleet.load()

TERMS = Terms(lease=30.0)
COMPILE = (40.0, 120.0)
HOSTS = 12
REQUESTS = world_of.TIMEOUT_SECONDS
"""What requests may take beside: each has its latency, and the last may be one that is not answered."""


@dataclass(frozen=True)
class Waited:
    """How one wait for one holder ended."""

    work: Any
    holder: str
    why: str
    began: float
    ended: float


class World(world_of.World):  # type: ignore[misc, name-defined]
    """One that remembers who waited for whom, and when hosts left it."""

    def __init__(self, seed: int) -> None:
        super().__init__(TERMS, world_of.Nature(compile_seconds=COMPILE, slots=1, clock_rate=0.005), seed)
        self.waited: list[Waited] = []
        self.died: dict[str, float] = {}
        self.cut: dict[str, float] = {}
        for number in range(HOSTS):
            host = self.boot(f"host-{number}")
            self.at(self.random.uniform(0, 60), self.ask, host, 0)

    def _note_wait(self, work: Any, step: Any) -> None:
        if work.since is not None and isinstance(step, Have | Turn | Local):
            why = step.reason if isinstance(step, Local) else type(step).__name__
            self.waited.append(Waited(work, work.claim.holder.host, why, work.since, self.now))
        super()._note_wait(work, step)

    def kill_a_holder(self) -> None:
        """Whoever compiles it; there is one, or it is done."""
        for work in self.works:
            if work.state == "compiling" and not work.host.dead:
                work.host.dead = True
                self.died[work.host.name] = self.now

    def cut_off_a_waiter(self) -> None:
        """For good, without its own knowledge."""
        waiting = [work.host for work in self.works if work.state == "waiting" and not work.host.cut_until]
        if waiting:
            host = self.random.choice(waiting)
            host.cut_until = math.inf
            self.cut[host.name] = self.now

    def ended(self, name: str) -> float:
        """When a host gave its last sign of life as a holder, or could have: it died, or its compile was over."""
        began = next(at for at, work, _ in self.compiles if work.host.name == name)
        return min(self.died.get(name, math.inf), began + self.seconds(0))


@pytest.mark.parametrize("seed", range(50))
def test_a_wait_for_a_holder_that_dies_ends_within_the_lease_time(seed: int) -> None:
    world = World(seed)
    at = 0.0
    for _ in range(2):
        at += world.random.uniform(10, 10 + COMPILE[1])
        world.at(at, world.kill_a_holder)

    world.settle(2000)

    deaths = [each for each in world.waited if each.holder in world.died]
    assert deaths or not world.died, "somebody waited for who died"
    assert all(work.done is not None for work in world.works if not work.host.dead)
    for each in world.waited:
        beyond = each.ended - max(each.began, world.ended(each.holder))  # who comes after a death can't know of it
        assert beyond <= TERMS.lease + REQUESTS, f"{each.work.host.name} waited {beyond:.1f} s beyond {each.holder}"
    for work in world.works:
        for wait in work.waits:
            assert wait <= world.seconds(0) + TERMS.lease + REQUESTS


@pytest.mark.parametrize("seed", range(50))
def test_a_wait_without_a_store_ends_within_the_lease_time(seed: int) -> None:
    """What was being asked when the network went, and the last question, may each take their time."""
    world = World(seed)
    for _ in range(3):
        world.at(world.random.uniform(10, COMPILE[1]), world.cut_off_a_waiter)

    world.settle(2000)

    alone = [each for each in world.waited if each.work.host.name in world.cut and each.why == "store-fault"]
    for each in alone:
        since = each.ended - world.cut[each.work.host.name]
        assert since <= TERMS.lease + 2 * REQUESTS, f"{each.work.host.name} waited {since:.1f} s for nothing"
    assert {each.work.host.name for each in alone} == set(world.cut)
