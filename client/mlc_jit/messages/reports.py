"""What a status, a listing and a live view are made of; none of it travels alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc_jit.messages.base import LATER, Shown


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobReport(Shown):
    """One job in a ``Status``; ``detail``, ``fraction`` and ``left`` as in ``Progress``."""

    key: str
    state: str
    model: str = ""
    device: str = ""
    stage: str = ""
    elapsed: float = 0.0
    waiters: int = 0
    pid: int = 0
    detail: str = field(default="", metadata=LATER)
    fraction: float | None = field(default=None, metadata=LATER)
    left: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheReport(Shown):
    """What bounds the cache, in a ``Status``. Sizes in bytes, 0 for no bound.

    Attributes:
        max_size: What the libraries may take.
        leased: Libraries that processes use.
        pinned: Keys that are kept.
        stale: Keys that no known model folder asks for any more.
        collected: Unix time of the last collection, 0.0 if none is known.
        removed: Libraries that it removed.
        freed: What they took.
        over: By how much the cache stayed over its size.
        short: What its disk still lacked.
    """

    max_size: int = 0
    leased: int = 0
    pinned: int = 0
    stale: int = 0
    collected: float = 0.0
    removed: int = 0
    freed: int = 0
    over: int = 0
    short: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LayerReport(Shown):
    """One read-only cache below the home; ``state`` is ``ok``, ``missing``, ``refused`` or ``away``."""

    path: str
    state: str
    detail: str = ""
    remedy: str = ""
    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RemoteReport(Shown):
    """The bucket that the fleet shares.

    Attributes:
        url: Where it is.
        state: ``ok``; ``away``: it is not asked for now; ``read-only``: nothing can be put there; ``unusable``: its
            settings are wrong.
        role: ``builder``: what is compiled here is put there; ``reader``.
        detail: What came last that was no good, for people.
        again: Seconds until it is tried again.
        waiting: What is still to be put there.
        refused: The last objects that were not used, and why.
        leases: Why hosts can't agree through it who compiles; empty where they can, or need not.
    """

    url: str
    state: str
    role: str
    detail: str = ""
    again: float = 0.0
    waiting: int = 0
    refused: tuple[str, ...] = ()
    leases: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FolderReport(Shown):
    """One model folder in a ``Status``.

    Attributes:
        path: As clients named it.
        watched: ``events``, ``polling``, ``scan`` (now and then), ``gone``, ``unseen`` (another mount namespace or
            host), ``unreachable`` (its file system does not answer).
        why: Why it is not watched by events, or what was lost.
        keep: ``pin``, ``prewarm``, or nothing.
        keys: Entries that it asks for now.
    """

    path: str
    watched: str
    why: str = ""
    keep: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HostReport(Shown):
    """What compiles may use, and what the daemon itself takes.

    Attributes:
        cores: Usable ones; 0.5 is a quota of half a core.
        memory_total: Bytes that compiles may use together, 0 where it is not known.
        memory_available: What is free of that now.
        gpus: Devices that can be opened.
        cores_per_job: What one compile gets, 0 where it is not known.
        resident: Bytes of the daemon's own memory.
        processor: Seconds of processor time that the daemon itself has used.
        waiting: Requests without an answer yet.
    """

    cores: float = 0.0
    memory_total: int = 0
    memory_available: int = 0
    gpus: int = 0
    cores_per_job: int = 0
    resident: int = 0
    processor: float = 0.0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutcomeReport(Shown):
    """Something that ended a moment ago.

    Attributes:
        at: Unix time.
        what: ``compiled``, ``found`` (somebody else had published it), ``failed``, ``cancelled``, ``withdrawn``; of
            requests ``hit``, ``joined``, ``stopgap``, ``refused``.
        seconds: From the request to this.
        detail: Why it was no hit, or what went wrong, in one line.
        waiters: How many waited for it.
        program: Who asked.
        pid: Of that process, 0 where it is not known.
    """

    at: float
    what: str
    key: str = ""
    model: str = ""
    device: str = ""
    seconds: float = 0.0
    detail: str = ""
    waiters: int = 0
    program: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EntryReport(Shown):
    """One entry in a ``Listing``.

    Attributes:
        created: Unix time.
        layer: The read-only cache that it lies in.
        pinned: Why it is never collected.
        stale: Unix time since when no known model folder asks for it any more.
    """

    key: str
    path: str
    size: int
    created: float
    seconds: float
    model: str
    device: str
    toolchain: str
    degraded: tuple[str, ...] = ()
    layer: str = field(default="", metadata=LATER)
    pinned: str = field(default="", metadata=LATER)
    stale: float | None = field(default=None, metadata=LATER)
