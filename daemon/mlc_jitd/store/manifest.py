"""What is said of an artifact, and its form on disk: JSON, one file per key.

A field may be added with a default, and a reader ignores fields that it does not know. A change that an older reader
would misread raises ``FORMAT``; an entry of a newer format is absent for this version, and is left alone.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlc_jitd.store.layout import SUFFIXES, artifact_name

FORMAT = 1

MAX_MANIFEST_BYTES = 1 << 20
"""A longer file is no manifest; a real one has 3 to 20 KB."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ManifestInvalidError(ValueError):
    """The bytes are no manifest of this key; the message says what is wrong with them."""


class ManifestNewerError(ValueError):
    """The manifest has a format that this version does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """One named part of the key: its own hash, and the value that was hashed."""

    sha256: str
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainRecord:
    """The compiler that made the artifact."""

    name: str
    fingerprint: str = ""
    interpreter: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The model that was asked for first; ``path`` is a hint for people, never part of the key."""

    path: str = ""
    type: str = ""
    quantization: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """How code generation went: ``way`` is ``kernels``, ``plain``, or empty where nobody tried to take it over.

    Attributes:
        why: What led to ``plain``.
        total: Groups of functions that were compiled apart.
        reused: How many of them were known.
        saved: Seconds that the known ones once took, on one core.
        spent: Seconds that the others took, on one core each.
    """

    way: str = ""
    why: str = ""
    total: int = 0
    reused: int = 0
    saved: float = 0.0
    spent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRecord:
    """How the compile went.

    Attributes:
        peak_memory: Bytes.
        started: Unix time.
        log: Path of the compiler's log.
        stages: Seconds per stage, in the order in which they came.
        kernels: Compiled apart, and reused.
    """

    seconds: float = 0.0
    peak_memory: int = 0
    cores: int = 0
    started: float = 0.0
    log: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    kernels: KernelRecord = field(default_factory=KernelRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What ``Store.publish`` is told of a library.

    Attributes:
        suffix: One of ``layout.SUFFIXES``.
        parts: The key's named parts, for explaining a miss.
        toolchain: The compiler that made it.
        target: The resolved target: its JSON, or the name of a preset.
        system_lib_prefix: What ``JITResult`` carries.
        device: The device text of the request.
        degraded: What the compiler fell back from; empty for a full library.
        config: ``mlc-chat-config.json`` as the compiler got it, to compile the same again; empty where it is not known.
        origin: Where it was fetched from, and who signed it; empty where it was compiled.
    """

    suffix: str
    toolchain: ToolchainRecord
    parts: dict[str, PartRecord] = field(default_factory=dict)
    target: str = ""
    system_lib_prefix: str | None = None
    model: ModelRecord = field(default_factory=ModelRecord)
    device: str = ""
    compile: CompileRecord = field(default_factory=CompileRecord)
    degraded: tuple[str, ...] = ()
    config: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(About):
    """One entry of the cache, as its file says it.

    Attributes:
        format: ``FORMAT`` of the writer.
        key: 64 hex digits; the manifest's file name says the same.
        artifact: File name of the artifact, in the manifest's own folder.
        sha256: Digest of the artifact, 64 hex digits.
        size: Its length in bytes.
        created: Unix time of the publish.
        version: Version of mlc-jitd that published it.
    """

    format: int
    key: str
    artifact: str
    sha256: str
    size: int
    created: float = 0.0
    version: str = ""

    @classmethod
    def describe(cls, about: About, *, key: str, sha256: str, size: int, created: float, version: str) -> Manifest:
        """The manifest of a library that is about to be published."""
        told = {f.name: getattr(about, f.name) for f in dataclasses.fields(About)}
        name = artifact_name(key, sha256, about.suffix)
        return cls(
            **told, format=FORMAT, key=key, artifact=name, sha256=sha256, size=size, created=created, version=version
        )


class _Envelope(msgspec.Struct):
    format: int


_DECODER = msgspec.json.Decoder(Manifest)
_ENVELOPE = msgspec.json.Decoder(_Envelope)


def encode(manifest: Manifest) -> bytes:
    """The manifest's file. Paths with undecodable bytes lose them: they are for people."""
    model = dataclasses.replace(manifest.model, path=_readable(manifest.model.path))
    record = dataclasses.replace(manifest.compile, log=_readable(manifest.compile.log))
    whole = dataclasses.replace(manifest, model=model, compile=record)
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def decode(payload: bytes, key: str) -> Manifest:
    """The manifest in a file that is named for ``key``.

    Args:
        payload: The file's bytes, whatever they are.
        key: 64 hex digits.

    Raises:
        ManifestNewerError: A later version wrote it.
        ManifestInvalidError: Anything else is wrong with it; it is then no reason to open any file.
    """
    try:
        manifest = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _refuse_newer(payload)
        raise ManifestInvalidError(f"not a manifest: {error}") from error
    if manifest.format > FORMAT:
        raise ManifestNewerError(_newer(manifest.format))
    wrong = _contradiction(manifest, key)
    if wrong:
        raise ManifestInvalidError(wrong)
    return manifest


def _contradiction(manifest: Manifest, key: str) -> str:
    if manifest.format < 1:
        return f"it has format {manifest.format}, which never was"
    if manifest.key != key:
        return f"it is the manifest of another key, {manifest.key[:64]!r}"
    if manifest.suffix not in SUFFIXES:
        return f"no library has the suffix {manifest.suffix[:20]!r}"
    if _SHA256.fullmatch(manifest.sha256) is None:
        return "its sha256 is not 64 hex digits"
    if manifest.size <= 0:
        return f"it gives the artifact {manifest.size} bytes"
    # The name follows from the rest, so a planted manifest can't lead out of the folder or to another key's file.
    if manifest.artifact != artifact_name(key, manifest.sha256, manifest.suffix):
        return f"it names an artifact that is not its own, {manifest.artifact[:120]!r}"
    return ""


def _refuse_newer(payload: bytes) -> None:
    try:
        envelope = _ENVELOPE.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if envelope.format > FORMAT:
        raise ManifestNewerError(_newer(envelope.format))


def _newer(found: int) -> str:
    return f"its manifest has format {found} and this version of mlc-jitd reads up to {FORMAT}"


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
