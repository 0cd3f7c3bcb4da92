"""The verbs that looking after a daemon and its cache takes. Who only asks for libraries never loads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mlc_jit.messages.base import LATER, Message
from mlc_jit.messages.core import JitRequest  # noqa: TC001 - decoding reads the annotations
from mlc_jit.messages.explained import Explain, Explained
from mlc_jit.messages.reports import (
    CacheReport,
    EntryReport,
    FolderReport,
    HostReport,
    JobReport,
    LayerReport,
    OutcomeReport,
    RemoteReport,
)


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
class Cancelled(Message):
    """Answer to ``Cancel``: the key whose job is being ended."""

    verb: ClassVar[str] = "cancelled"
    key: str


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
    """Ask for the records of the jobs under way; whoever does not administer gets those that they wait for.

    Attributes:
        ended: Besides, of those that ended lately, as far as the daemon remembers them.
    """

    verb: ClassVar[str] = "records"
    ended: bool = field(default=False, metadata=LATER)


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
