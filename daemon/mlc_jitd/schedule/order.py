"""In what order waiting jobs are looked at, and when each may hope to start. Pure functions over the entries."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlc_jitd.schedule.fairness import Accounts
    from mlc_jitd.schedule.jobs import Blocked, Demand, Running, Slots

Client = tuple[int, str]
Group = tuple[bool, int]

TYPICAL_SECONDS = 60.0
"""What a job of unknown duration is charged until it is over (measured compiles: 20 to 100 s)."""
LEAST_COST = 1.0
"""What a job costs at least: those that fail at once take turns too."""


@dataclass(slots=True)
class Entry:
    """One waiting job; only the queue changes it.

    Attributes:
        number: Order of arrival; breaks ties.
        passed: How often another job started while this one was the oldest of its group.
        blocked: What was in its way at the last look.
        short_of_memory: Since when nothing but others on the host keeps it from starting.
        short_of_gpu: The same for a device.
        misfit: Since when the host as it is could never run it.
    """

    demand: Demand
    number: int
    passed: int = 0
    blocked: Blocked | None = None
    short_of_memory: float | None = None
    short_of_gpu: float | None = None
    misfit: float | None = None

    @property
    def age(self) -> tuple[float, int]:
        """Sorts the oldest first."""
        return (self.demand.submitted, self.number)

    @property
    def group(self) -> Group:
        """Where its turn by age is counted: a user's interactive jobs, or its pre-warm jobs."""
        return (self.demand.interactive, self.demand.user)

    @property
    def client(self) -> Client:
        """Whom it is charged to within the user."""
        return (self.demand.user, self.demand.client)

    @property
    def cost(self) -> float:
        """Seconds it is expected to hold a slot."""
        return TYPICAL_SECONDS if self.demand.estimate is None else max(LEAST_COST, self.demand.estimate)


def oldest(entries: Iterable[Entry]) -> dict[Group, Entry]:
    """The one job of each group whose turn comes by age."""
    found: dict[Group, Entry] = {}
    for entry in entries:
        best = found.get(entry.group)
        if best is None or entry.age < best.age:
            found[entry.group] = entry
    return found


def due(entries: Iterable[Entry], overtakes: int) -> list[Entry]:
    """Those that others passed often enough: they go first, the one passed most at the head."""
    return sorted((e for e in oldest(entries).values() if e.passed >= overtakes), key=lambda e: (-e.passed, e.age))


def turns(entries: Iterable[Entry], users: Accounts[int], clients: Accounts[Client]) -> list[Entry]:
    """Interactive before pre-warm; then the user, and of that user the client, that had least; then by age.

    Each place assumes that all before it were granted and charged.
    """
    waiting: dict[bool, list[Entry]] = {True: [], False: []}
    for entry in entries:
        waiting[entry.demand.interactive].append(entry)
    user_had: dict[int, float] = {}
    client_had: dict[Client, float] = {}
    order: list[Entry] = []
    for interactive in (True, False):
        line: dict[Client, list[Entry]] = {}
        for entry in sorted(waiting[interactive], key=lambda e: e.age, reverse=True):
            line.setdefault(entry.client, []).append(entry)
            user_had.setdefault(entry.demand.user, users.had(entry.demand.user))
            client_had.setdefault(entry.client, clients.had(entry.client))
        by_user: dict[int, list[tuple[float, tuple[float, int], Client]]] = {}
        for client, jobs in line.items():
            by_user.setdefault(client[0], []).append((client_had[client], jobs[-1].age, client))
        for heap in by_user.values():
            heapq.heapify(heap)
        heads = [(user_had[user], heap[0][1], user) for user, heap in by_user.items()]
        heapq.heapify(heads)
        while heads:
            user = heapq.heappop(heads)[2]
            client = heapq.heappop(by_user[user])[2]
            entry = line[client].pop()
            order.append(entry)
            user_had[user] += entry.cost
            client_had[client] += entry.cost
            if line[client]:
                heapq.heappush(by_user[user], (client_had[client], line[client][-1].age, client))
            if by_user[user]:
                heapq.heappush(heads, (user_had[user], by_user[user][0][1], user))
    return order


def forecast(
    order: Sequence[Entry], running: Mapping[str, Running], slots: Slots, now: float
) -> dict[str, float | None]:
    """Seconds until each waiting job starts; ``None`` where that is not known.

    Only slots are forecast. A job that waits for memory, a device, or to be alone has no forecast, and neither has one
    behind a job of unknown duration or one that takes longer than it should.
    """
    lanes: list[float] = []
    for each in running.values():
        left = math.inf if each.demand.estimate is None else each.started + each.demand.estimate - now
        lanes.append(left if left > 0 else math.inf)
    lanes.extend([0.0] * (slots.jobs - len(lanes)))
    heapq.heapify(lanes)
    for _ in range(len(lanes) - slots.jobs):  # more run than may, since the host has shrunk: the first to end free none
        heapq.heappop(lanes)
    known: dict[str, float | None] = {}
    for entry in order:
        start = heapq.heappop(lanes)
        estimate = entry.demand.estimate
        heapq.heappush(lanes, math.inf if estimate is None else start + estimate)
        hopeful = math.isfinite(start) and entry.blocked in (None, "slots") and not entry.demand.exclusive
        known[entry.demand.job] = start if hopeful else None
    return known
