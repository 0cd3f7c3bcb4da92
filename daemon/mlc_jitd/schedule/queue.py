"""The compile queue: who waits, who runs, who is next. Pure: no clock, file, socket or process, and no other room.

Time and capacity come in as values; grants go out as values. The same calls give the same answers.

Order: a job that waited longest in its group and was passed `Settings.overtakes` times; then interactive before
pre-warm, the user and client that had least, age. What such a passed job is short of is kept for it, so that it is next
when jobs end. docs/scheduling.md is the document.

Not guaranteed: that what a job says it needs is what it takes. Limits are the build room's.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from mlc_jitd.schedule import fit, order
from mlc_jitd.schedule.fairness import Accounts
from mlc_jitd.schedule.jobs import (
    Accepted,
    Admission,
    Blocked,
    Busy,
    BusyReason,
    Demand,
    Grant,
    Refused,
    Running,
    Settings,
    Slots,
    Snapshot,
    Waiting,
)
from mlc_jitd.schedule.order import LEAST_COST, Client, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlc_jitd.schedule.host import Capacity

_NOBODY: Mapping[str, int] = {}


class Queue:
    """Waiting and running compiles.

    Call `admit` after every other call that changes something, and every few seconds while anything waits: what others
    on the host use changes without a word, and patience is counted by the ``now`` of these calls.

    Args:
        settings: The administrator's figures.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._waiting: dict[str, Entry] = {}
        self._running: dict[str, Running] = {}
        self._users: Accounts[int] = Accounts()
        self._clients: Accounts[Client] = Accounts()
        self._number = 0
        self._slots = Slots(max(1, self._settings.jobs or 1), max(1, self._settings.cores_per_job or 1))

    def change(self, settings: Settings) -> None:
        """Go by other figures from now on; what waits or runs already stays."""
        self._settings = settings

    def cores(self, capacity: Capacity) -> int:
        """How many a job would get on this host, as things are."""
        return fit.slots(capacity, self._settings).cores

    # --- events -----------------------------------------------------------------------------------------------------

    def submit(self, demand: Demand, capacity: Capacity) -> Accepted | Busy | Refused:
        """Take a job in, unless it can never run here or too many wait.

        Raises:
            ValueError: A job of this name is queued or running.
        """
        if demand.job in self._waiting or demand.job in self._running:
            raise ValueError(f"job {demand.job!r} is in the queue already")
        refused = fit.never(demand, capacity, self._settings)
        if refused is not None:
            return refused
        busy = self._busy(demand)
        if busy is not None:
            return busy
        self._slots = fit.slots(capacity, self._settings)
        self._enter(demand)
        return Accepted(job=demand.job, position=self.position(demand.job) or 0)

    def withdraw(self, job: str) -> bool:
        """Take a waiting job out; ``False`` if it does not wait (it may run: that is ended elsewhere)."""
        entry = self._waiting.pop(job, None)
        if entry is None:
            return False
        self._leave(entry.demand)
        return True

    def promote(self, job: str) -> bool:
        """Somebody now waits for a job that was pre-warming; ``False`` if there is no such job."""
        entry, run = self._waiting.get(job), self._running.get(job)
        if entry is not None:
            entry.demand = dataclasses.replace(entry.demand, interactive=True)
        elif run is not None:
            self._running[job] = dataclasses.replace(run, demand=dataclasses.replace(run.demand, interactive=True))
        return entry is not None or run is not None

    def finished(self, job: str, now: float) -> bool:
        """A running job is over, however it ended; ``False`` if it does not run."""
        run = self._running.pop(job, None)
        if run is None:
            return False
        took = max(LEAST_COST, now - run.started)
        self._charge(run.demand, took - Entry(run.demand, 0).cost)
        self._leave(run.demand)
        return True

    def retry(self, job: str, now: float) -> Accepted | None:
        """A running job was killed for memory: it is over, and waits again to run alone; ``None`` if it does not run.

        It keeps its age, and no bound turns it away.
        """
        run = self._running.get(job)
        if run is None:
            return None
        self.finished(job, now)
        self._enter(dataclasses.replace(run.demand, exclusive=True))
        return Accepted(job=job, position=self.position(job) or 0)

    def again(self, demand: Demand) -> Accepted:
        """A job that gave its place back wants it again: it keeps its age, and no bound turns it away.

        Raises:
            ValueError: A job of this name is queued or running.
        """
        if demand.job in self._waiting or demand.job in self._running:
            raise ValueError(f"job {demand.job!r} is in the queue already")
        self._enter(demand)
        return Accepted(job=demand.job, position=self.position(demand.job) or 0)

    def admit(self, capacity: Capacity, now: float, used: Mapping[str, int] = _NOBODY) -> Admission:
        """Everybody who may start now; they count as running from here on.

        Args:
            capacity: The host at this moment.
            now: Seconds on any monotonic clock.
            used: Bytes that running jobs use by now, as far as known; it must not count what is shared with others.
        """
        self._slots = fit.slots(capacity, self._settings)
        refused = self._drop_misfits(capacity, now)
        granted: list[Grant] = []
        while (grant := self._next(capacity, now, used)) is not None:
            granted.append(grant)
        return Admission(granted=tuple(granted), refused=refused)

    # --- questions --------------------------------------------------------------------------------------------------

    def position(self, job: str) -> int | None:
        """Place in the order as things stand, 1 is next; ``None`` if the job does not wait."""
        if job not in self._waiting:
            return None
        return next(place for place, entry in enumerate(self._order(), 1) if entry.demand.job == job)

    def estimate(self, job: str, now: float) -> float | None:
        """Seconds until the job starts, from what jobs like those ahead took; ``None`` if that is not known."""
        return order.forecast(self._order(), self._running, self._slots, now).get(job)

    def measure(self, capacity: Capacity) -> None:
        """Work the slots out before the first job comes."""
        self._slots = fit.slots(capacity, self._settings)

    @property
    def slots(self) -> Slots:
        """How many compiles may run at a time, with how many cores each, as of the last admission; from any thread."""
        return self._slots

    def snapshot(self, now: float) -> Snapshot:
        """Everything, for status."""
        line = self._order()
        hopes = order.forecast(line, self._running, self._slots, now)
        return Snapshot(
            slots=self._slots,
            running=tuple(self._running.values()),
            waiting=tuple(
                Waiting(
                    demand=entry.demand,
                    position=place,
                    waited=max(0.0, now - entry.demand.submitted),
                    estimate=hopes[entry.demand.job],
                    blocked=entry.blocked,
                    passed=entry.passed,
                )
                for place, entry in enumerate(line, 1)
            ),
        )

    def validate(self) -> None:
        """Check everything that must hold between two calls; for tests.

        Raises:
            AssertionError: Something does not.
        """
        runs = self._running.values()
        assert not self._waiting.keys() & self._running.keys()
        assert all(job == entry.demand.job for job, entry in self._waiting.items())
        assert all(job == run.demand.job == run.grant.job for job, run in self._running.items())
        assert all(run.grant.cores >= 1 and run.grant.memory >= 0 for run in runs)
        assert all((run.grant.device is not None) == run.demand.gpu for run in runs)
        devices = [run.grant.device for run in runs if run.grant.device is not None]
        assert len(devices) == len(set(devices)), devices
        assert len(self._running) == 1 or not any(run.demand.exclusive for run in runs)
        # One that is waited for starts beside one that is not, which may be promoted later.
        assert sum(run.demand.memory is None for run in runs) <= 2 * max(1, self._settings.unknown_at_once)
        demands = [*(entry.demand for entry in self._waiting.values()), *(run.demand for run in runs)]
        self._users.validate(Counter(each.user for each in demands))
        self._clients.validate(Counter((each.user, each.client) for each in demands))
        line = self._order()
        assert len(line) == len(self._waiting)
        assert {entry.demand.job for entry in line} == self._waiting.keys()

    # --- how --------------------------------------------------------------------------------------------------------

    def _order(self) -> list[Entry]:
        first = order.due(self._waiting.values(), self._settings.overtakes)
        ahead = {entry.number for entry in first}
        rest = (entry for entry in self._waiting.values() if entry.number not in ahead)
        return first + order.turns(rest, self._users, self._clients)

    def _next(self, capacity: Capacity, now: float, used: Mapping[str, int]) -> Grant | None:
        """Start the first job that may."""
        left = fit.room(capacity, self._settings, self._running.values(), used)
        withheld: frozenset[str] = frozenset()
        closed = False
        for entry in self._order():
            if entry.misfit is not None:
                continue
            if closed:
                entry.blocked = "turn"
                continue
            answer = self._weigh(entry, left, capacity, now, withheld)
            if isinstance(answer, Grant):
                self._start(entry, answer, now)
                return answer
            entry.blocked = answer
            if entry.passed >= self._settings.overtakes:
                # Jobs that take the slot or the memory it lacks would keep it waiting for ever. One that lacks a device
                # or the place of the unknown one keeps just that: the rest of the host need not stand still for it.
                closed = answer in ("slots", "memory", "exclusive")
                if answer == "gpu":
                    withheld |= fit.large_enough(entry.demand, capacity, self._settings)
        return None

    def _weigh(
        self, entry: Entry, left: fit.Room, capacity: Capacity, now: float, withheld: frozenset[str]
    ) -> Grant | Blocked:
        """Whether an entry may start; one that only others on the host keep from it may, once patience has run out."""
        demand, settings = entry.demand, self._settings
        answer = fit.fit(demand, left, capacity, settings, withheld=withheld)
        gpu_late = memory_late = False
        if answer == "gpu":
            ours = left.taken | withheld
            spare = fit.large_enough(demand, capacity, settings) - ours
            entry.short_of_gpu = _since(entry.short_of_gpu, now) if spare else None
            gpu_late = entry.short_of_gpu is not None and now - entry.short_of_gpu >= settings.patience
            if gpu_late:
                answer = fit.fit(demand, left, capacity, settings, withheld=withheld, without_gpu=True)
        if answer == "memory":
            entry.short_of_memory = _since(entry.short_of_memory, now) if left.idle else None
            memory_late = entry.short_of_memory is not None and now - entry.short_of_memory >= settings.patience
            if memory_late:
                answer = fit.fit(
                    demand, left, capacity, settings, withheld=withheld, without_memory=True, without_gpu=gpu_late
                )
        return answer

    def _start(self, entry: Entry, grant: Grant, now: float) -> None:
        for waiting in order.oldest(self._waiting.values()).values():
            if waiting is not entry:
                waiting.passed += 1
        del self._waiting[entry.demand.job]
        self._running[entry.demand.job] = Running(demand=entry.demand, grant=grant, started=now)
        self._charge(entry.demand, entry.cost)

    def _drop_misfits(self, capacity: Capacity, now: float) -> tuple[Refused, ...]:
        """Those for which the host became too small (a limit was lowered, a GPU is gone) and stayed so."""
        refused: list[Refused] = []
        for entry in tuple(self._waiting.values()):
            why = fit.never(entry.demand, capacity, self._settings)
            entry.misfit = None if why is None else _since(entry.misfit, now)
            if why is None or entry.misfit is None:
                continue
            entry.blocked = "memory" if why.reason == "memory" else "gpu"
            if now - entry.misfit >= self._settings.patience:
                self.withdraw(entry.demand.job)
                refused.append(why)
        return tuple(refused)

    def _busy(self, demand: Demand) -> Busy | None:
        """Nobody alone fills the queue: one client and all pre-warming half of it, one user three quarters."""
        most = self._settings.max_queued
        waiting = [entry.demand for entry in self._waiting.values()]
        same_user = [each for each in waiting if each.user == demand.user]
        same_client = [each for each in same_user if each.client == demand.client]
        bounds: list[tuple[BusyReason, int, int]] = [
            ("queue-full", len(waiting), most),
            ("client-full", len(same_client), max(1, most // 2)),
            ("user-full", len(same_user), max(1, most * 3 // 4)),
        ]
        if self._settings.user_jobs:
            running = sum(run.demand.user == demand.user for run in self._running.values())
            bounds.append(("user-full", len(same_user) + running, self._settings.user_jobs))
        if not demand.interactive:
            bounds.append(("prewarm-full", sum(not each.interactive for each in waiting), max(1, most // 2)))
        for reason, queued, limit in bounds:
            if queued >= limit:
                return Busy(job=demand.job, reason=reason, queued=queued, limit=limit)
        return None

    def _enter(self, demand: Demand) -> None:
        self._number += 1
        self._waiting[demand.job] = Entry(demand, self._number)
        self._users.enter(demand.user)
        self._clients.enter((demand.user, demand.client))

    def _leave(self, demand: Demand) -> None:
        self._users.leave(demand.user)
        self._clients.leave((demand.user, demand.client))

    def _charge(self, demand: Demand, cost: float) -> None:
        self._users.charge(demand.user, cost)
        self._clients.charge((demand.user, demand.client), cost)


def _since(since: float | None, now: float) -> float:
    return now if since is None else since
