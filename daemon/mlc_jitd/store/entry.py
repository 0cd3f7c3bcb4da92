"""What ``Store.find`` answers: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from mlc_jitd.store.files import Stamp
    from mlc_jitd.store.manifest import Manifest

MissingReason = Literal["absent", "damaged", "foreign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A library that was verified, as it was then.

    Attributes:
        key: 64 hex digits.
        path: Absolute path of the artifact.
        size: In bytes.
        manifest: What is said of it.
        manifest_path: Absolute path of the manifest.
        settled: Whether equal stamps prove equal content; a file that changed within the last 2 s could change again
            under the same times.
    """

    key: str
    path: str
    size: int
    manifest: Manifest
    manifest_path: str
    artifact_stamp: Stamp
    manifest_stamp: Stamp
    settled: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The key has a whole, verified library."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Missing:
    """The key has no library that may be handed out.

    Attributes:
        reason: ``absent``: there is none; ``damaged``: there was one, and it was moved away where that was possible;
            ``foreign``: there is one that others decide about, which was left alone.
        detail: One sentence for people.
        remedy: What to do about it, or an empty string.
        unread: Where it might be all the same: which layers could not be asked, and why; mostly empty.
    """

    reason: MissingReason
    detail: str
    remedy: str = ""
    unread: str = ""


class Totals(NamedTuple):
    """Entries in a home, and the bytes of their artifacts, older ones that wait for the collector included."""

    entries: int
    bytes: int
