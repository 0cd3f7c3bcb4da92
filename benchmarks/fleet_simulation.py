"""A fleet boots: what its bucket is asked, what is compiled, and how long hosts wait. Simulated; a minute or two.

Every host wants the same configurations at its boot, and boots come evenly over ten minutes into an empty bucket. The
hosts run the daemon's own lease code (``mlc_jitd.fleet.lease``); store, network, clocks and compiles are simulated
(``fleet_world.py``). Goal: each configuration is compiled once, but for those whose holder was frozen, cut off or lost,
and nobody waits longer than the lease time and a compile for each of these.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from fleet_world import Host, Nature, World
from mlc_jitd.fleet.lease import Terms

GET, PUT = 0.0004 / 1000, 0.005 / 1000
"""Dollars a request, S3 Standard, us-east-1; docs/scale.md has the source. A listing costs what a put costs."""

PUTS = ("put-lease", "put-manifest", "put-library", "list")
LATE_SECONDS = 4000.0


@dataclass(frozen=True)
class Scenario:
    """One boot of a fleet.

    Attributes:
        frozen: Of one: hosts that freeze for up to a minute, once, at any time.
        cut: Of one: hosts that lose the network for up to a minute, likewise.
        killed: Of one: hosts that die for good, likewise.
    """

    name: str
    hosts: int
    configurations: int = 50
    boot_seconds: float = 600.0
    nature: Nature = Nature()  # noqa: RUF009 - frozen
    frozen: float = 0.0
    cut: float = 0.0
    killed: float = 0.0


TROUBLED = Nature(latency=0.1, spread=0.8, loss=0.002, clock_rate=0.02)


def run(scenario: Scenario, terms: Terms, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    world = World(terms, scenario.nature, seed)
    for number in range(scenario.hosts):
        host = world.boot(f"host-{number}")
        at = world.random.uniform(0, scenario.boot_seconds)
        world.at(at, boot, world, host, scenario.configurations)
        for share, trouble in ((scenario.frozen, freeze), (scenario.cut, cut), (scenario.killed, kill)):
            if world.random.random() < share:
                world.at(at + world.random.uniform(0, 120), trouble, world, host)
    world.settle(LATE_SECONDS)
    return {
        "scenario": scenario.name,
        "hosts": scenario.hosts,
        **figures(world),
        "seconds": round(time.perf_counter() - began, 1),
    }


def boot(world: World, host: Host, configurations: int) -> None:
    for key in range(configurations):
        world.ask(host, key)


def freeze(world: World, host: Host) -> None:
    host.frozen_until, host.troubled = world.now + world.random.uniform(1, 60), True


def cut(world: World, host: Host) -> None:
    host.cut_until, host.troubled = world.now + world.random.uniform(1, 60), True


def kill(_world: World, host: Host) -> None:
    host.dead = True


def figures(world: World) -> dict[str, Any]:
    """What came of it."""
    alive = [work for work in world.works if not work.host.dead]
    done = [work for work in alive if work.done is not None]
    waited = [work for work in done if work.claim is not None and not work.compiled]
    first: dict[int, Any] = {}
    for compile_ in world.compiles:
        first.setdefault(compile_[1].key, compile_)
    others = [each for each in world.compiles if each is not first[each[1].key]]
    rates = world.rates
    return {
        "asked": len(world.works),
        "compiles": len(world.compiles),
        "beyond the first": dict(Counter(under.split()[0] for _, _, under in others)),
        "hosts that compiled": len({work.host.name for _, work, _ in world.compiles}),
        "published": sum(bool(each.library) for each in world.store.values()),
        "unserved": len(alive) - len(done),
        "requests": dict(sorted(world.requests.items())),
        "all requests": sum(world.requests.values()),
        "requests a second": {"most": max(rates.values()), "mean": round(sum(rates.values()) / (max(rates) + 1))},
        "read": world.bytes["down"],
        "written": world.bytes["up"],
        "dollars": round(sum(n * (PUT if kind in PUTS else GET) for kind, n in world.requests.items()), 2),
        "wait of all": percentiles(sorted(work.done - work.asked for work in done)),
        "wait of those who waited": percentiles(sorted(work.done - work.asked for work in waited)),
        "who waited": len(waited),
        "beyond the compile": {
            "of others": beyond(world, done, troubled=False),
            "of hosts frozen or cut off": beyond(world, done, troubled=True),
        },
        "holders waited for": dict(sorted(Counter(len(work.waits) for work in done if work.waits).items())),
    }


def beyond(world: World, works: list[Any], *, troubled: bool) -> dict[str, float]:
    """By how much a wait for one holder was longer than the compile that it was for, as long as that took."""
    chosen = [work for work in works if work.host.troubled == troubled]
    return percentiles(sorted(wait - world.took[work.key] for work in chosen for wait in work.waits))


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    found = {name: round(values[min(len(values) - 1, int(share * len(values)))], 2) for name, share in at.items()}
    return {**found, "most": round(values[-1], 2)}


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['scenario']}: {found['hosts']:,} hosts, {found['asked']:,} requests of processes")
    beyond = sum(found["beyond the first"].values())
    print(
        f"  compiles            {found['compiles']:,}, of which {beyond} beyond the first of a configuration "
        f"{found['beyond the first'] or ''}"
    )
    print(f"  hosts that compiled {found['hosts that compiled']}")
    print(f"  requests            {found['all requests']:,} (${found['dollars']:.2f})")
    for kind, count in found["requests"].items():
        print(f"    {kind:<17} {count:>12,}")
    print(
        f"  a second            {found['requests a second']['mean']:,}, at most {found['requests a second']['most']:,}"
    )
    print(f"  read, written       {found['read'] / 1e9:,.0f} GB, {found['written'] / 1e9:.1f} GB")
    for name in ("wait of all", "wait of those who waited"):
        words = ", ".join(f"{each} {value:,.1f} s" for each, value in found[name].items())
        print(f"  {name:<19} {words}")
    for whose, values in found["beyond the compile"].items():
        if values:
            print(f"  longest wait for one holder beyond its compile, {whose}: {values['most']:.0f} s")
    print(f"  holders waited for  {', '.join(f'{n}: {count:,}' for n, count in found['holders waited for'].items())}")
    print(f"  who waited          {found['who waited']:,}; without a library at the end: {found['unserved']}")
    print(f"  (simulated in {found['seconds']} s)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--lease", type=float, default=Terms().lease, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    terms = replace(Terms(), lease=given.lease)
    scenarios = [
        Scenario("calm, a tenth", given.hosts // 10),
        Scenario("calm", given.hosts),
        Scenario("trouble", given.hosts, nature=TROUBLED, frozen=0.05, cut=0.05, killed=0.02),
    ]
    found = []
    for scenario in scenarios:
        found.append(run(scenario, terms, given.seed))
        if not given.json:
            show(found[-1])
            sys.stdout.flush()
    if given.json:
        print(json.dumps({"terms": asdict(terms), "scenarios": found}, indent=2))
    return 0 if all(not each["unserved"] for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
