"""What a collection takes and what it leaves, and why: values in, a plan out. No file, no clock.

Always taken, when nothing protects it: an older artifact of a key that has a newer one, an artifact without a manifest,
what was not used for longer than the age, what was stale for longer than its age. Taken while the cache is over its
size, or the disk has less than its floor free: stale entries first, then the least recently used ones.

Protected: what a process uses, what is pinned, what is being made, what was published or used within the grace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlc_jit.figures import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Kind = Literal["entry", "superseded", "orphan"]
"""An artifact that its key's manifest names, one that it names no more, one without any manifest."""

Reason = Literal[
    "leased", "pinned", "spared", "young", "fits",
    "superseded", "orphan", "age", "stale-age", "stale", "unused",
]  # fmt: skip
"""Why an artifact stays (the first row), or goes."""

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One artifact.

    Attributes:
        artifact: Its file name.
        key: Its key.
        kind: What it is to its key.
        size: Bytes.
        published: Unix time when it became what it is: was published, or replaced by a newer one.
        used: Unix time of its key's last use; not before it was published.
    """

    artifact: str
    key: str
    kind: Kind
    size: int
    published: float
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a cache may take; ``None`` where nothing is asked for. Sizes in bytes, times in seconds.

    Attributes:
        max_size: What all artifacts may take together.
        min_free: What must stay free on their file system.
        max_age: How long an artifact may be unused.
        stale_age: How long an entry may be stale.
        grace: How long after its publish or last use nothing is taken.
    """

    max_size: int | None = None
    min_free: int | None = None
    max_age: float | None = None
    stale_age: float | None = None
    grace: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How things are.

    Attributes:
        now: Unix time.
        free: Bytes that are free on the file system, ``None`` where that is not known.
        leased: By artifact: who uses it.
        pinned: By key: why it is kept.
        stale: By key: since when no known model folder asks for it, as Unix time.
        spared: By artifact: why it can't be taken now.
    """

    now: float
    free: int | None = None
    leased: Mapping[str, object] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    stale: Mapping[str, float] = field(default_factory=dict)
    spared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one artifact."""

    candidate: Candidate
    remove: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """A collection.

    Attributes:
        decisions: For each candidate, what goes first, in that order, then what stays.
        before: Bytes of all artifacts.
        after: Bytes of those that stay.
        over: By how many bytes the cache is still over its size.
        short: How many bytes the disk will still lack.
    """

    decisions: tuple[Decision, ...]
    before: int
    after: int
    over: int
    short: int

    @property
    def removals(self) -> tuple[Decision, ...]:
        """What goes."""
        return tuple(each for each in self.decisions if each.remove)


def plan(candidates: Sequence[Candidate], rules: Rules, facts: Facts) -> Plan:
    """Decide about every artifact."""
    stay: list[Decision] = []
    go: list[Decision] = []
    open_: list[Candidate] = []
    for candidate in candidates:
        kept = _protected(candidate, rules, facts)
        if kept is not None:
            stay.append(Decision(candidate, False, kept))
            continue
        due = _due(candidate, rules, facts)
        if due is not None:
            go.append(Decision(candidate, True, due))
        else:
            open_.append(candidate)
    before = sum(candidate.size for candidate in candidates)
    after = before - sum(each.candidate.size for each in go)
    # What goes first: the stale, then by last use. A use in the future, after a clock was put back, is one just now.
    open_.sort(key=lambda each: (each.key not in facts.stale, min(each.used, facts.now), each.artifact))
    for candidate in open_:
        if _lack(rules, facts, before, after) == (0, 0):
            stay.append(Decision(candidate, False, "fits"))
        else:
            go.append(Decision(candidate, True, "stale" if candidate.key in facts.stale else "unused"))
            after -= candidate.size
    over, short = _lack(rules, facts, before, after)
    return Plan((*go, *stay), before, after, over, short)


def _protected(candidate: Candidate, rules: Rules, facts: Facts) -> Reason | None:
    if candidate.artifact in facts.leased:
        return "leased"
    if candidate.artifact in facts.spared:
        return "spared"
    if candidate.kind == "entry" and candidate.key in facts.pinned:
        return "pinned"
    # Of an older artifact only its own publish counts: a use of its key is a use of the newer one.
    last = candidate.used if candidate.kind == "entry" else candidate.published
    # A time in the far future is a clock's mistake and protects nothing.
    return "young" if abs(facts.now - last) < rules.grace else None


def _due(candidate: Candidate, rules: Rules, facts: Facts) -> Reason | None:
    if candidate.kind != "entry":
        return candidate.kind
    if rules.max_age is not None and facts.now - candidate.used > rules.max_age:
        return "age"
    since = facts.stale.get(candidate.key)
    if since is not None and rules.stale_age is not None and facts.now - since > rules.stale_age:
        return "stale-age"
    return None


def _lack(rules: Rules, facts: Facts, before: int, after: int) -> tuple[int, int]:
    """By how much the cache is over its size and the disk under its floor, once ``before`` bytes are ``after``."""
    over = 0 if rules.max_size is None else max(0, after - rules.max_size)
    short = 0
    if rules.min_free is not None and facts.free is not None:
        short = max(0, rules.min_free - (facts.free + before - after))
    return over, short


def explain(decision: Decision, rules: Rules, facts: Facts) -> str:
    """Why, as part of a sentence."""
    each, now = decision.candidate, facts.now
    unused = f"not used for {duration(max(0.0, now - each.used))}"
    since = f"no model folder has asked for it for {duration(max(0.0, now - facts.stale.get(each.key, now)))}"
    words: dict[Reason, Callable[[], str]] = {
        "leased": lambda: f"in use by {facts.leased[each.artifact]}",
        "spared": lambda: facts.spared[each.artifact],
        "pinned": lambda: facts.pinned[each.key],
        "young": lambda: f"{_last(each, now)} ago, within the grace of {duration(rules.grace)}",
        "fits": lambda: f"{since if each.key in facts.stale else unused}; there is room",
        "superseded": lambda: "replaced by a newer one of its key, and not in use",
        "orphan": lambda: "has no manifest: a publish that never ended",
        "age": lambda: f"{unused}, longer than {duration(rules.max_age or 0.0)}",
        "stale-age": lambda: f"{since}, longer than {duration(rules.stale_age or 0.0)}",
        "stale": lambda: f"{since}, and {needed(rules, facts)}",
        "unused": lambda: f"{unused}, longer than what stays, and {needed(rules, facts)}",
    }
    return words[decision.reason]()


def _last(each: Candidate, now: float) -> str:
    if each.kind == "entry" and each.used > each.published:
        return f"used {duration(max(0.0, now - each.used))}"
    what = "replaced" if each.kind == "superseded" else "published"
    return f"{what} {duration(max(0.0, now - each.published))}"


def needed(rules: Rules, facts: Facts) -> str:
    """Why anything has to go that could stay."""
    if rules.min_free is not None and facts.free is not None and facts.free < rules.min_free:
        return f"the disk had {size(facts.free)} free of {size(rules.min_free)} asked for"
    return f"the cache was over {size(rules.max_size or 0)}"
