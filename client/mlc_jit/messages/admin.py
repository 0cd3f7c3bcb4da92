"""The messages that looking after a daemon and its cache takes. Who only asks for libraries never loads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mlc_jit.messages.base import LATER, Message, Shown
from mlc_jit.messages.core import JitRequest  # noqa: TC001 - decoding reads the annotations


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cancel(Message):
    """Cancel the job of a key (a prefix of it that is unique will do), whoever waits for it."""

    verb: ClassVar[str] = "cancel"
    key: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StatusRequest(Message):
    """Ask how the daemon is."""

    verb: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ListRequest(Message):
    """Ask for the entries of the cache."""

    verb: ClassVar[str] = "list"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StopRequest(Message):
    """Ask the daemon to drain and end.

    Attributes:
        now: End running compiles instead of letting them finish.
    """

    verb: ClassVar[str] = "stop"
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explain(Message):
    """Ask what a request would come to, and why; its own ``id`` and policy don't count. Nothing is compiled."""

    verb: ClassVar[str] = "explain"
    request: JitRequest


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PartReport(Shown):
    """One part of a key: its hash, and its value for people."""

    name: str
    sha256: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DifferenceReport(Shown):
    """One thing that differs between a known entry and what is asked.

    Attributes:
        part: Of the key.
        field: Where in it, with dots; empty for the whole part.
        there: The entry's value as JSON, empty where it has none; of a long one the beginning.
        here: What is asked for, likewise.
        words: For people.
    """

    part: str
    field: str = ""
    there: str = ""
    here: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NearReport(Shown):
    """An entry that is near to what is asked. ``created`` is a Unix time."""

    key: str
    model: str
    toolchain: str
    created: float
    differences: tuple[DifferenceReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class UpstreamReport(Shown):
    """Where upstream's own ``jit()`` would look for what is asked.

    Attributes:
        device: The device text that gives this name.
        file: File name in ``model_lib``.
        holds: ``nothing``, ``entry`` (a copy of the entry that is asked for), ``other-entry`` (a copy of another one),
            ``unknown`` (a file that mlc-jitd did not make).
    """

    device: str
    file: str
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explained(Message):
    """Answer to ``Explain``.

    Attributes:
        hit: Whether there is a library for the key.
        path: It, for a hit.
        reason: Why it is none: ``absent``, ``damaged``, ``foreign``; empty for a hit.
        words: The same as a sentence without its stop.
        remedy: What to do about it, where there is something.
        parts: What the key is made of.
        compared: How many other entries were compared.
        nearest: Nearest first.
        upstream: Empty for a toolchain that upstream does not know, and where its hash could not be had.
    """

    verb: ClassVar[str] = "explained"
    key: str
    hit: bool
    path: str = ""
    reason: str = ""
    words: str = ""
    remedy: str = ""
    parts: tuple[PartReport, ...] = ()
    compared: int = 0
    nearest: tuple[NearReport, ...] = ()
    upstream: tuple[UpstreamReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cancelled(Message):
    """Answer to ``Cancel``: the key whose job is being ended."""

    verb: ClassVar[str] = "cancelled"
    key: str


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
class TopRequest(Message):
    """Ask for what changes by the second; no file of the cache is read for the answer.

    Attributes:
        recent: How many outcomes are wanted at most.
    """

    verb: ClassVar[str] = "top"
    recent: int = 20


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Top(Message):
    """Answer to ``TopRequest``; ``recent`` has the newest first."""

    verb: ClassVar[str] = "top-is"
    version: str
    pid: int
    uptime: float
    home: str
    draining: bool = False
    slots: int = 0
    jobs: tuple[JobReport, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    host: HostReport = field(default_factory=HostReport)
    recent: tuple[OutcomeReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Status(Message):
    """Answer to ``StatusRequest``. Times in seconds, sizes in bytes."""

    verb: ClassVar[str] = "status-is"
    version: str
    pid: int
    uptime: float
    home: str
    socket: str
    log_path: str
    draining: bool = False
    slots: int = 0
    jobs: tuple[JobReport, ...] = ()
    entries: int = 0
    bytes: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    cache: CacheReport | None = field(default=None, metadata=LATER)
    layers: tuple[LayerReport, ...] = field(default=(), metadata=LATER)
    folders: tuple[FolderReport, ...] = field(default=(), metadata=LATER)
    remote: RemoteReport | None = field(default=None, metadata=LATER)
    host: HostReport | None = field(default=None, metadata=LATER)


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Listing(Message):
    """Answer to ``ListRequest``; sent in parts when it is long, ``more`` on all but the last."""

    verb: ClassVar[str] = "listing"
    entries: tuple[EntryReport, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Stopping(Message):
    """Answer to ``StopRequest``: how many jobs are still running."""

    verb: ClassVar[str] = "stopping"
    pid: int
    jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Keep(Message):
    """Keep an entry, or let it go. Exactly one of ``ask``, ``folder`` and ``key`` is given.

    Attributes:
        ask: The request whose entry is meant; it must be in the cache.
        folder: A model folder: nothing of it is kept any more.
        key: An entry by its key, or the beginning of one that is unique.
        keep: ``pin``: never collected, and asked for again when the model's config changes. ``prewarm``: the latter
            alone, and only with ``ask``. Empty: let it go; not with ``ask``.
    """

    verb: ClassVar[str] = "keep"
    ask: JitRequest | None = None
    folder: str = ""
    key: str = ""
    keep: Literal["", "prewarm", "pin"] = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Kept(Message):
    """Answer to ``Keep``: the entries that it was about; none where there was nothing to let go."""

    verb: ClassVar[str] = "kept"
    keys: tuple[str, ...] = ()
    folder: str = ""
    keep: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RecordsRequest(Message):
    """Ask for the records of the jobs under way."""

    verb: ClassVar[str] = "records"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Records(Message):
    """Answer to ``RecordsRequest``; sent in parts when it is long, ``more`` on all but the last.

    Attributes:
        jobs: One line of JSON each, of the form of the history's (docs/seeing.md).
    """

    verb: ClassVar[str] = "records-are"
    jobs: tuple[str, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WatchRequest(Message):
    """Ask to be told what happens, until the connection ends."""

    verb: ClassVar[str] = "watch"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Event(Message):
    """Something happened; one of many answers to ``WatchRequest``.

    Attributes:
        what: A word: ``watching`` (the first), ``changed``, ``gone``, ``back``, ``stale``, ``current``, ``prewarming``,
            ``ready``, ``failed``, ``compiled``, ``lost``, ``ended`` (the last). Later versions may say more.
        folder: The model folder that it is about.
        key: The entry.
        detail: One line for people.
        at: Unix time.
    """

    verb: ClassVar[str] = "event"
    what: str
    folder: str = ""
    key: str = ""
    detail: str = ""
    at: float = 0.0


REQUESTS: tuple[type[Message], ...] = (
    Cancel, Explain, Keep, ListRequest, RecordsRequest, StatusRequest, StopRequest, TopRequest,
    WatchRequest,
)  # fmt: skip
REPLIES: tuple[type[Message], ...] = (Cancelled, Event, Explained, Kept, Listing, Records, Status, Stopping, Top)
