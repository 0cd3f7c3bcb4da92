"""When a bucket is asked, and when once more: a circuit breaker and a budget of retries. Pure: time comes in.

What does not belong here: requests, threads, and what a fault is.
"""

from __future__ import annotations

from dataclasses import dataclass

FAULTS = 3
"""So many in a row open the circuit."""

PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0

BUDGET = 10.0
RETRY_COST = 1.0
EARNED = 0.1
"""Each success earns a tenth of a retry: a tier that fails for everybody gets at most a tenth more requests."""


@dataclass(slots=True)
class Breaker:
    """Open after several faults in a row, for a pause that doubles each time until something succeeds again.

    While it is open nobody asks. When the pause is over, one probe may (`probe_due`), and its outcome decides.
    Not safe for several threads: whoever holds it has a lock.
    """

    faults: int = 0
    pause: float = 0.0
    until: float = 0.0
    probing: bool = False

    @property
    def open(self) -> bool:
        """Whether nobody may ask."""
        return self.pause > 0

    def succeeded(self) -> None:
        """An answer came."""
        self.faults, self.pause, self.until, self.probing = 0, 0.0, 0.0, False

    def failed(self, now: float, *, at_once: bool = False) -> bool:
        """A fault came; whether the circuit opened just now.

        Args:
            now: Seconds of a clock that only goes forward.
            at_once: A fault that does not pass by itself.
        """
        self.faults += 1
        if self.open and not self.probing:
            return False  # asked before it opened
        if not self.open and self.faults < FAULTS and not at_once:
            return False
        opened = not self.open
        self.pause = min(LONGEST_PAUSE_SECONDS, self.pause * 2 or PAUSE_SECONDS)
        self.until = now + self.pause
        self.probing = False
        return opened

    def probe_due(self, now: float) -> bool:
        """Whether the caller shall ask once, to see; nobody else is told so until the outcome is known."""
        if not self.open or self.probing or now < self.until:
            return False
        self.probing = True
        return True


@dataclass(slots=True)
class Budget:
    """How many retries are left. Successes earn some; a long outage uses it up, and then nothing is asked twice."""

    left: float = BUDGET

    def earn(self) -> None:
        """A request succeeded."""
        self.left = min(BUDGET, self.left + EARNED)

    def spend(self) -> bool:
        """Whether there may be one more try."""
        if self.left < RETRY_COST:
            return False
        self.left -= RETRY_COST
        return True
