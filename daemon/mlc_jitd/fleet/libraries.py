"""Libraries in a bucket: how they are written there, and what makes one found there worth using.

::

    v1/libraries/<key>/<signer>     a signed text (`signed`): the manifest, and which blob has the library
    v1/blobs/<sha256>               the library's bytes, compressed or not; named by what they are

A library is believed if somebody trusted signed for this very key, the manifest's own parts make that key, and the
bytes are the ones that were signed for. What does not belong here: when the bucket is asked (`tier`, `writer`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import msgspec
import zstandard

from mlc_jitd.fleet.keys import Trust
from mlc_jitd.fleet.objects import AbsentError, Bucket, ExistsError, TooLongError
from mlc_jitd.fleet.signed import NOBODY, RefusedError, check, sign
from mlc_jitd.identity import canonical
from mlc_jitd.store.layout import check_key
from mlc_jitd.store.manifest import MAX_MANIFEST_BYTES, ManifestInvalidError, ManifestNewerError, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.fleet.keys import PrivateKey
    from mlc_jitd.store import Manifest

LIBRARIES = "v1/libraries"
BLOBS = "v1/blobs"

MOST_TEXT_BYTES = 2 * MAX_MANIFEST_BYTES
MOST_BLOB_BYTES = 2 << 30
MOST_SIGNERS = 64
"""Of one key, where anyone is trusted."""

LEVEL = 3
WORTH = 0.95
"""A library that stays bigger than this part of itself is stored as it is: nobody need unpack it."""

_BLOCK = 1 << 20


class _Body(msgspec.Struct):
    """The payload of a signed text."""

    kind: str
    key: str
    blob: str
    stored: int
    encoding: str
    manifest: msgspec.Raw


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Offer:
    """A library that the bucket says it has, and that somebody trusted vouches for; its bytes were not looked at.

    Attributes:
        name: The signed text's.
        signer: The key's name; ``-`` for nobody.
        manifest: What is said of the library.
        blob: SHA-256 of the stored bytes, hex.
        stored: How many they are.
        encoding: ``zstd``, or empty.
    """

    name: str
    signer: str
    manifest: Manifest
    blob: str
    stored: int
    encoding: str


def name_of(key: str, signer: str) -> str:
    """The object of a key that a signer wrote."""
    return f"{LIBRARIES}/{check_key(key)}/{'unsigned' if signer == NOBODY else signer}"


def blob_name(sha256: str) -> str:
    """The object that holds these bytes."""
    return f"{BLOBS}/{check_key(sha256)}"


def find(bucket: Bucket, key: str, trust: Trust, refused: Callable[[str, str], None]) -> Offer | None:
    """The first library of a key that may be believed.

    Args:
        bucket: Where.
        key: 64 hex digits.
        trust: Whose signatures count; each trusted key is one request at most.
        refused: Told the name of each object that may not be believed, and why.

    Raises:
        FaultError: The bucket is in trouble.
    """
    names = [name_of(key, each.name) for each in trust.keys]
    if trust.anyone:
        others = [each.name for each in bucket.list(f"{LIBRARIES}/{check_key(key)}", most=MOST_SIGNERS)]
        names = [*(name for name in names if name in others), *(name for name in others if name not in names)]
    for name in names:
        try:
            return read(name, bucket.get(name, most=MOST_TEXT_BYTES).data, key, trust)
        except AbsentError:
            continue
        except (RefusedError, TooLongError) as error:
            refused(name, str(error))
    return None


def read(name: str, data: bytes, key: str, trust: Trust) -> Offer:
    """What a signed text offers for a key.

    Args:
        name: The object's, for people.
        data: Its bytes, whatever they are.
        key: Which library was asked for.
        trust: Whose signatures count.

    Raises:
        RefusedError: It may not be believed.
    """
    said = check(data, trust)
    if said.rest:
        raise RefusedError("it has bytes behind its end")
    try:
        body = _DECODER.decode(said.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"its payload can't be read: {error}") from error
    if body.kind != "library":
        raise RefusedError(f"it speaks of a {body.kind[:20]!r}, not of a library")
    if body.key != key:
        raise RefusedError(f"it is the library of another key, {body.key[:64]!r}")
    if body.encoding not in {"", "zstd"}:
        raise RefusedError(f"its library is encoded as {body.encoding[:20]!r}")
    try:
        manifest = decode(bytes(body.manifest), key)
        check_key(body.blob)
    except (ManifestInvalidError, ManifestNewerError, ValueError) as error:
        raise RefusedError(f"its manifest is no good: {error}") from error
    if not 0 < body.stored <= MOST_BLOB_BYTES or manifest.size > MOST_BLOB_BYTES:
        raise RefusedError(f"its library has {max(body.stored, manifest.size)} bytes")
    try:
        wrong = _contradiction(manifest, key)
    except RecursionError as error:
        raise RefusedError("the parts of its manifest are nested too deeply") from error
    if wrong:
        raise RefusedError(wrong)
    return Offer(name, said.signer, manifest, body.blob, body.stored, body.encoding)


def download(bucket: Bucket, offer: Offer, path: Path, told: Callable[[int], None] | None = None) -> None:
    """Write an offered library to a new file, verified.

    Args:
        bucket: Where.
        offer: Which.
        path: The file.
        told: How many of the stored bytes have come.

    Raises:
        RefusedError: The bytes are not the ones that were signed for.
        AbsentError: They are gone.
        FaultError: The bucket is in trouble.
        OSError: The file can't be written.
    """
    name = blob_name(offer.blob)
    try:
        data = bucket.get(name, most=offer.stored, told=told).data
    except TooLongError as error:
        raise RefusedError(f"its library, {name}, was swapped: {error}") from error
    if len(data) != offer.stored or hashlib.sha256(data).hexdigest() != offer.blob:
        raise RefusedError(f"its library, {name}, was swapped: the bytes are not those of its name")
    digest = hashlib.sha256()
    written = 0
    with path.open("xb") as file:
        for block in _unpacked(data, offer.encoding):
            written += len(block)
            if written > offer.manifest.size:
                raise RefusedError("its library is longer than its manifest says")
            digest.update(block)
            file.write(block)
    if written != offer.manifest.size or digest.hexdigest() != offer.manifest.sha256:
        raise RefusedError("its library is not the one of its manifest")


def upload(
    bucket: Bucket, manifest: Manifest, path: Path, key: PrivateKey | None, *, again: bool = False
) -> Literal["written", "there"]:
    """Put a library into the bucket: its bytes, then the text that names them, create-only.

    Args:
        bucket: Where.
        manifest: What is said of it; paths of this host are left out.
        path: The library.
        key: Signs, if there is one.
        again: Replace what the same signer wrote.

    Raises:
        RemoteError: It is not there now, or nobody knows.
        OSError: The library can't be read.
        ValueError: It is not the one of its manifest, or too long.
    """
    signer = NOBODY if key is None else key.public.name
    name = name_of(manifest.key, signer)
    if not again and _is_there(bucket, name, manifest.key, key):
        return "there"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.sha256 or len(data) > MOST_BLOB_BYTES:
        raise ValueError(f"{path} is not the library of its manifest, or has more than {MOST_BLOB_BYTES} bytes")
    stored, encoding = packed(data)
    blob = hashlib.sha256(stored).hexdigest()
    text = sign(_payload(manifest, blob, len(stored), encoding), key)
    # Written even where it may be there: equal names have equal bytes, and bytes that are not are mended by it.
    bucket.put(blob_name(blob), stored)
    try:
        bucket.put(name, text, create=not again)
    except ExistsError:
        if _is_there(bucket, name, manifest.key, key):
            return "there"
        bucket.put(name, text)  # what is there is no good to anybody
    return "written"


def packed(data: bytes) -> tuple[bytes, str]:
    """Bytes as they are stored, and how they are encoded."""
    small = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    return (small, "zstd") if len(small) < WORTH * len(data) else (data, "")


def _unpacked(data: bytes, encoding: str) -> list[bytes] | Blocks:
    return Blocks(data) if encoding else [data]


class Blocks:
    """What compressed bytes become, a block at a time, so that what is short but becomes long harms nobody.

    Raises, while it is gone through:
        RefusedError: They can't be unpacked.
    """

    def __init__(self, data: bytes) -> None:
        self._reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data)

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> bytes:
        try:
            block = self._reader.read(_BLOCK)
        except zstandard.ZstdError as error:
            raise RefusedError(f"its bytes can't be unpacked: {error}") from error
        if not block:
            raise StopIteration
        return block


def _is_there(bucket: Bucket, name: str, key: str, signer: PrivateKey | None) -> bool:
    """Whether a text of ours is there that readers can use."""
    trust = Trust((), anyone=True) if signer is None else Trust((signer.public,))
    try:
        offer = read(name, bucket.get(name, most=MOST_TEXT_BYTES).data, key, trust)
        return bucket.head(blob_name(offer.blob)).size == offer.stored
    except (AbsentError, RefusedError, TooLongError):
        return False


def _payload(manifest: Manifest, blob: str, stored: int, encoding: str) -> bytes:
    """What is signed. Paths of the host that compiled say nothing to others, and are nobody's business."""
    public = replace(
        manifest,
        origin="",
        model=replace(manifest.model, path=""),
        compile=replace(manifest.compile, log=""),
        toolchain=replace(manifest.toolchain, interpreter=""),
    )
    body = _Body("library", manifest.key, blob, stored, encoding, msgspec.Raw(encode(public)))
    return msgspec.json.encode(body)


def _contradiction(manifest: Manifest, key: str) -> str:
    """What is wrong with a manifest whose key does not follow from its parts."""
    names = canonical.PART_NAMES
    if set(manifest.parts) != set(names):
        return "its manifest does not have the parts of a key"
    for name in names:
        if canonical.digest(manifest.parts[name].value) != manifest.parts[name].sha256:
            return f"the part {name!r} of its manifest is not what its hash says"
    parts = tuple(canonical.Part(name, manifest.parts[name].value, manifest.parts[name].sha256) for name in names)
    if canonical.key_of(parts) != key:
        return "the parts of its manifest make another key"
    return ""
