"""Entries as one file: a plain tar (ustar) with its table of contents first.

::

    mlc-jit-export.json               the table: {"format": 1, "entries": [{"key", "artifact", "sha256", "size"}, ...]}
    model_lib/<key>.json              for each entry, in the order of the table: its manifest ...
    model_lib/<artifact>              ... and its artifact

Equal entries give equal bytes: sorted by key, no owner, no time. Unpacked anywhere, it is a layer. What is read is this
form and nothing else: no link, no folder, no other name, no extension of tar; names come from the table, whose own
come from keys, so none leads out of the folder. Not here: which entries, and where they go.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from mlc_jitd.store.files import ChangedError, DamagedError, ForeignError, opened
from mlc_jitd.store.layout import artifact_name, check_key
from mlc_jitd.store.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestInvalidError,
    ManifestNewerError,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FORMAT = 1
TABLE = "mlc-jit-export.json"
FOLDER = "model_lib"

MAX_TABLE_BYTES = 64 << 20
MAX_ARTIFACT_BYTES = 8 << 30
"""More than ustar can say, and than any library has."""

_BLOCK = 512
_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """The file is no export of ours, or a damaged one; the message says how, as a sentence without its stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of the table."""

    key: str
    artifact: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    format: int
    entries: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """One entry in an archive that is being read.

    Attributes:
        manifest: Decoded, and in agreement with the table.
        copy: Writes the artifact to an open file and checks its digest; to be called once, before the next entry is
            asked for. ``None`` only checks.
    """

    manifest: Manifest
    copy: Callable[[BinaryIO | None], None]


def write(file: BinaryIO, entries: Iterable[tuple[Manifest, Path]]) -> int:
    """Write entries to a file.

    Args:
        file: Open for writing, at its start.
        entries: Manifests, and where their artifacts lie.

    Returns:
        Bytes written.

    Raises:
        ArchiveError: An artifact is gone, or not what its manifest says.
        OSError: The file can't be written.
    """
    ordered = sorted(entries, key=lambda each: each[0].key)
    rows = tuple(Row(key=m.key, artifact=m.artifact, sha256=m.sha256, size=m.size) for m, _ in ordered)
    table = msgspec.json.format(msgspec.json.encode(_Table(format=FORMAT, entries=rows)), indent=1) + b"\n"
    done = _member(file, TABLE, table)
    for manifest, path in ordered:
        done += _member(file, f"{FOLDER}/{manifest.key}.json", encode(manifest))
        done += _artifact(file, manifest, path)
    file.write(bytes(2 * _BLOCK))
    return done + 2 * _BLOCK


def _member(file: BinaryIO, name: str, payload: bytes) -> int:
    file.write(_header(name, len(payload)) + payload + _padding(len(payload)))
    return _BLOCK + len(payload) + len(_padding(len(payload)))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _artifact(file: BinaryIO, manifest: Manifest, path: Path) -> int:
    try:
        with opened(path) as (fd, status), open(fd, "rb", buffering=0, closefd=False) as source:
            if status.st_size != manifest.size:
                raise ArchiveError(f"{path} has {status.st_size} bytes instead of {manifest.size}")
            file.write(_header(f"{FOLDER}/{manifest.artifact}", manifest.size))
            _pump(source, file, manifest)
    except FileNotFoundError as error:
        raise ArchiveError(f"{path} was removed meanwhile") from error
    except (DamagedError, ForeignError, ChangedError) as error:
        raise ArchiveError(str(error)) from error
    file.write(_padding(manifest.size))
    return _BLOCK + manifest.size + len(_padding(manifest.size))


def _pump(source: BinaryIO, sink: BinaryIO | None, manifest: Manifest) -> None:
    """Copy an artifact's bytes and check their digest."""
    found, left = hashlib.sha256(), manifest.size
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise ArchiveError(f"it ends within {manifest.artifact}")
        found.update(chunk)
        if sink is not None:
            sink.write(chunk)
        left -= len(chunk)
    if found.hexdigest() != manifest.sha256:
        raise ArchiveError(f"{manifest.artifact} does not have the digest that its manifest says")


def read(file: BinaryIO) -> Iterator[Packed]:
    """The entries of an archive, one after the other; each artifact is copied or checked before the next one comes.

    Args:
        file: Open for reading, at its start.

    Raises:
        ArchiveError: It is no archive of this form, of a later version, or damaged. What came before is whole.
        OSError: The file can't be read.
    """
    for row in _table(_payload(file, TABLE, MAX_TABLE_BYTES)):
        payload = _payload(file, f"{FOLDER}/{row.key}.json", MAX_MANIFEST_BYTES)
        try:
            manifest = decode(payload, row.key)
        except (ManifestInvalidError, ManifestNewerError) as error:
            raise ArchiveError(f"the manifest of {row.key[:12]}: {error}") from error
        if (manifest.artifact, manifest.sha256, manifest.size) != (row.artifact, row.sha256, row.size):
            raise ArchiveError(f"the manifest of {row.key[:12]} is not the one of its table of contents")
        if _size(file, f"{FOLDER}/{row.artifact}", MAX_ARTIFACT_BYTES) != row.size:
            raise ArchiveError(f"{row.artifact} does not have the {row.size} bytes of its table of contents")
        copied = False

        def copy(sink: BinaryIO | None, manifest: Manifest = manifest) -> None:
            nonlocal copied
            copied = True
            _pump(file, sink, manifest)
            _skip_padding(file, manifest.size)

        yield Packed(manifest, copy)
        if not copied:
            copy(None)
    if _exactly(file, 2 * _BLOCK).strip(b"\0"):
        raise ArchiveError("it has more in it than its table of contents")


def _table(payload: bytes) -> tuple[Row, ...]:
    try:
        table = msgspec.json.decode(payload, type=_Table)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveError(f"its table of contents: {error}") from error
    if table.format != FORMAT:
        raise ArchiveError(f"it has format {table.format}, and this version of mlc-jitd reads {FORMAT}")
    keys = [row.key for row in table.entries]
    if keys != sorted(set(keys)):
        raise ArchiveError("its table of contents is not sorted by key, or names one twice")
    for row in table.entries:
        try:
            check_key(row.key)
        except ValueError as error:
            raise ArchiveError(f"its table of contents: {error}") from error
        suffix = row.artifact.rpartition(".")[2]
        if row.artifact != artifact_name(row.key, row.sha256, suffix) or not 0 < row.size <= MAX_ARTIFACT_BYTES:
            raise ArchiveError(f"its table of contents names an artifact that can't be, {row.artifact[:100]!r}")
    return table.entries


def _payload(file: BinaryIO, name: str, limit: int) -> bytes:
    size = _size(file, name, limit)
    payload = _exactly(file, size)
    _skip_padding(file, size)
    return payload


def _size(file: BinaryIO, name: str, limit: int) -> int:
    """Read the header of the member that has to come now."""
    block = _exactly(file, _BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.TarError, ValueError) as error:
        raise ArchiveError(f"it is no tar where {name} should be") from error
    if info.name != name or info.type != tarfile.REGTYPE:
        raise ArchiveError(f"it has {info.name[:120]!r} where the file {name} should be")
    if not 0 <= info.size <= limit:
        raise ArchiveError(f"{name} has {info.size} bytes")
    return int(info.size)


def _skip_padding(file: BinaryIO, size: int) -> None:
    if _exactly(file, -size % _BLOCK).strip(b"\0"):
        raise ArchiveError("it has bytes where none should be")


def _exactly(file: BinaryIO, count: int) -> bytes:
    payload = file.read(count)
    if len(payload) != count:
        raise ArchiveError(f"it ends {count - len(payload)} bytes early")
    return payload


def sync(file: BinaryIO) -> None:
    """Have it on the disk."""
    file.flush()
    os.fsync(file.fileno())
