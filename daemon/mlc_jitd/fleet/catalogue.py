"""All that a bucket holds, for people: its libraries one by one, the bytes that belong to none, and what is wrong.

What does not belong here: what goes (`retention`), and the way of a request (`tier`).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jitd.fleet.libraries import (
    BLOBS,
    LIBRARIES,
    MOST_BLOB_BYTES,
    MOST_TEXT_BYTES,
    Blocks,
    Offer,
    blob_name,
    read,
)
from mlc_jitd.fleet.objects import AbsentError, Bucket, Meta, TooLongError
from mlc_jitd.fleet.signed import RefusedError
from mlc_jitd.store.layout import is_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.fleet.keys import Trust

MOST_OBJECTS = 1_000_000
THREADS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One signed text of the bucket.

    Attributes:
        meta: Its object.
        key: Which library it is about, by its name.
        offer: What it offers, if that may be believed.
        why: Why it may not; empty if it may.
    """

    meta: Meta
    key: str
    offer: Offer | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What there was when it was looked: the libraries, and all blobs by SHA-256."""

    rows: tuple[Row, ...]
    blobs: dict[str, Meta]


def rows(bucket: Bucket, trust: Trust, *, only: Callable[[str], bool] = lambda _key: True) -> Iterator[Row]:
    """The libraries of the bucket, in the order of their keys, each text read and judged.

    Args:
        bucket: Where.
        trust: Whose signatures count.
        only: Which keys.

    Raises:
        RemoteError: The bucket is in trouble.
    """

    def judged(meta: Meta) -> Row | None:
        key = meta.name.removeprefix(f"{LIBRARIES}/").partition("/")[0]
        if not is_key(key):
            return Row(meta, "", why="its name is none of a library")
        try:
            return Row(meta, key, read(meta.name, bucket.get(meta.name, most=MOST_TEXT_BYTES).data, key, trust))
        except (RefusedError, TooLongError) as error:
            return Row(meta, key, why=str(error))
        except AbsentError:
            return None

    found = bucket.list(LIBRARIES, most=MOST_OBJECTS)
    wanted = [each for each in found if only(each.name.removeprefix(f"{LIBRARIES}/").partition("/")[0])]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="catalogue") as threads:
        yield from filter(None, threads.map(judged, wanted))


def catalogue(bucket: Bucket, trust: Trust) -> Catalogue:
    """Everything; the libraries first, so that bytes of a library that comes meanwhile look as if they were nobody's.

    Raises:
        RemoteError: The bucket is in trouble.
    """
    blobs = {each.name.removeprefix(f"{BLOBS}/"): each for each in bucket.list(BLOBS, most=MOST_OBJECTS)}
    return Catalogue(tuple(rows(bucket, trust)), blobs)


def trouble(bucket: Bucket, row: Row, *, blobs: dict[str, Meta], whole: bool) -> str:
    """What is wrong with a library of the bucket, a phrase; empty if nothing is.

    Args:
        bucket: Where.
        row: The library.
        blobs: Which bytes there are.
        whole: Read all its bytes, instead of asking how many they are.

    Raises:
        RemoteError: The bucket is in trouble.
    """
    offer = row.offer
    if offer is None:
        return row.why
    meta = blobs.get(offer.blob)
    if meta is None or meta.size != offer.stored:
        return f"its library, {blob_name(offer.blob)}, is {'gone' if meta is None else 'another one'}"
    return _damage(bucket, offer) if whole else ""


def _damage(bucket: Bucket, offer: Offer) -> str:
    try:
        data = bucket.get(blob_name(offer.blob), most=MOST_BLOB_BYTES).data
    except (AbsentError, TooLongError) as error:
        return str(error)
    if hashlib.sha256(data).hexdigest() != offer.blob:
        return f"its library, {blob_name(offer.blob)}, was swapped"
    digest = hashlib.sha256()
    size = 0
    try:
        for block in Blocks(data) if offer.encoding else [data]:
            digest.update(block)
            size += len(block)
            if size > offer.manifest.size:
                break
    except RefusedError as error:
        return str(error)
    good = size == offer.manifest.size and digest.hexdigest() == offer.manifest.sha256
    return "" if good else "its library is not the one of its manifest"
