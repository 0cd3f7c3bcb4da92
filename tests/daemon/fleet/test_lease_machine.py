"""A small fleet in any trouble: hosts that freeze, die, lose requests, and whose clocks agree in nothing.

The hosts run the daemon's own lease code against the simulated store of ``benchmarks/fleet_world.py``.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness import fleet
from mlc_jitd.fleet.lease import Terms

world_of = fleet.load()

TERMS = Terms(lease=20.0)
COMPILE = (30.0, 60.0)
HOSTS, KEYS = 4, 2
NETWORK = 8.0
"""What requests take beside the waits: some of them, each with its latency."""

hosts = st.integers(0, HOSTS - 1)


class Fleet(RuleBasedStateMachine):
    """Every compile beyond the first of a key needs an excuse: somebody was frozen, cut off, or died."""

    def __init__(self) -> None:
        super().__init__()
        self.excuses = 0
        self.healed_at = 0.0

    @initialize(seed=st.integers(0, 999), loss=st.sampled_from([0.0, 0.0, 0.2]), skew=st.sampled_from([0.0, 0.02]))
    def begin(self, seed: int, loss: float, skew: float) -> None:
        nature = world_of.Nature(loss=loss, compile_seconds=COMPILE, clock_rate=skew, library=1 << 20, slots=1)
        self.world = world_of.World(TERMS, nature, seed)
        self.lossy = loss > 0
        for number in range(HOSTS):
            self.world.boot(f"host-{number}")

    @rule(host=hosts, key=st.integers(0, KEYS - 1))
    def ask(self, host: int, key: int) -> None:
        found = self.world.hosts[host]
        mine = [work for work in self.world.works if work.host is found and work.key == key]
        if not found.dead and not mine:
            self.world.ask(found, key)

    @rule(seconds=st.floats(0.01, 40.0))
    def pass_time(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @rule(host=hosts, seconds=st.floats(0.1, 100.0))
    def freeze(self, host: int, seconds: float) -> None:
        self.world.hosts[host].frozen_until = self.world.now + seconds
        self.excuses += seconds > TERMS.lease / 2
        self.healed_at = max(self.healed_at, self.world.now + seconds)

    @rule(host=hosts, seconds=st.floats(0.1, 100.0))
    def cut_off(self, host: int, seconds: float) -> None:
        self.world.hosts[host].cut_until = self.world.now + seconds
        self.excuses += 1
        self.healed_at = max(self.healed_at, self.world.now + seconds)

    @precondition(lambda self: sum(not host.dead for host in self.world.hosts) > 1)
    @rule(host=hosts)
    def kill(self, host: int) -> None:
        if not self.world.hosts[host].dead:
            self.world.hosts[host].dead = True
            self.excuses += 1
            self.healed_at = max(self.healed_at, self.world.now)

    @rule(host=hosts)
    def restart(self, host: int) -> None:
        """The machine is another one now: it knows nothing of its claims."""
        if self.world.hosts[host].dead:
            self.world.hosts[host] = self.world.boot(f"host-{host}-again")
            self.world.hosts.pop()

    @invariant()
    def twice_only_for_a_reason(self) -> None:
        per_key: dict[int, int] = {}
        for _, work, _ in self.world.compiles:
            per_key[work.key] = per_key.get(work.key, 0) + 1
        allowed = 1 + self.excuses * HOSTS
        for key, count in per_key.items():
            if not self.excuses and not self.lossy:
                assert count == 1, f"key {key} was compiled {count} times for no reason"
            assert count <= allowed or self.lossy, f"key {key}: {count} compiles, {self.excuses} excuses"

    @invariant()
    def each_generation_once(self) -> None:
        leased = [(work.key, under) for _, work, under in self.world.compiles if under.startswith("lease")]
        assert len(set(leased)) == len(leased), "two hosts compiled under one generation"

    @invariant()
    def at_most_once_a_host(self) -> None:
        assert all(work.compiled <= 1 for work in self.world.works)

    def teardown(self) -> None:
        """Trouble ends; whoever lives gets its library, and in time."""
        if not hasattr(self, "world"):
            return
        self.world.run(max(self.healed_at, self.world.now))
        calm = self.world.now
        open_works = [work for work in self.world.works if work.done is None and not work.host.dead]
        self.world.settle(10_000)
        for work in open_works:
            assert work.done is not None, f"{work.host.name} never got its library: {work.state}"
            # A slot that is taken by the other key, a dead holder, and then the compile itself.
            bound = KEYS * (TERMS.lease * 1.1 + COMPILE[1] * 1.1 + NETWORK) + COMPILE[1]
            assert work.done - calm <= bound or self.lossy, f"{work.host.name} waited {work.done - calm:.0f} s"
        self.twice_only_for_a_reason()
        self.each_generation_once()


Fleet.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFleet = Fleet.TestCase


def boot(count: int, keys: int, **nature: Any) -> Any:
    world = world_of.World(Terms(), world_of.Nature(**nature), seed=1)
    for number in range(count):
        host = world.boot(f"host-{number}")
        world.at(world.random.uniform(0, 60), lambda host=host: [world.ask(host, key) for key in range(keys)])
    return world


def test_a_fleet_in_calm_compiles_each_once() -> None:
    world = boot(40, 10)

    world.settle(2000)

    assert len(world.compiles) == 10
    assert all(work.done is not None for work in world.works)
    assert max(work.done - work.asked for work in world.works) <= 5 * 100 + 5  # two at a time, if one host had all


def test_the_work_is_spread_over_the_hosts() -> None:
    """Nobody takes leases for what it has no cores for yet."""
    world = boot(40, 10)

    world.settle(2000)

    assert len({work.host.name for _, work, _ in world.compiles}) >= 4


def test_a_lossy_network_costs_requests_and_not_compiles() -> None:
    """Replies that are lost make creations unsure; they are read back."""
    world = boot(40, 10, loss=0.01)

    world.settle(4000)

    assert all(work.done is not None for work in world.works)
    assert len(world.compiles) <= 10 + 4
