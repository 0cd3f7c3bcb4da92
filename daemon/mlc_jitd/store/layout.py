"""Where things lie in a cache home, and which names are safe. No file is opened here.

::

    MLC_LLM_HOME/model_lib/
        <key>-<first 16 of sha256>.<suffix>   artifact: immutable, never replaced
        <key>.json                            manifest: names the current artifact; its rename is the only commit
        .locks/<key>                          kernel-released lock of everything that makes the key's artifact
        .staging/<random>/  <random>.lock     a build in progress, and the lock that says its owner lives
        .quarantine/<when>-<key>-<random>/    damaged files, with why.json
        .used/<key>                           empty; its modification time is the key's last use
        .logs/<key>.log                       the compiler's log of the newest compile
        .<key>.json.gone                      a manifest that a collector takes away (or put it back: see collector.py)
        .reserve                              room that a collector gives back when the disk is full
        .collected                            what the last collection did
        <md5>.<suffix>                        upstream's; or a copy of an artifact, where
        .upstream/<md5>.json                  says so (see upstream.py)

Every other name in ``model_lib`` belongs to somebody else and is never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({"so", "dylib", "tar", "dll", "wasm"})
"""What a library can be; anything else is a programming error."""

_GONE = ".gone"

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MANIFEST = re.compile(r"([0-9a-f]{64})\.json", re.ASCII)
ARTIFACT = re.compile(rf"([0-9a-f]{{64}})-[0-9a-f]{{16}}\.(?:{'|'.join(sorted(SUFFIXES))})", re.ASCII)


def check_key(key: str) -> str:
    """The key itself.

    Raises:
        ValueError: It is not 64 lower-case hex digits, so it may not become part of a path.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"a cache key is 64 lower-case hex digits, not {key[:80]!r}")
    return key


def is_key(name: str) -> bool:
    """Whether a file name is a key."""
    return _KEY.fullmatch(name) is not None


def check_suffix(suffix: str) -> str:
    """The suffix itself.

    Raises:
        ValueError: It is not one of ``SUFFIXES``.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"a library's suffix is one of {', '.join(sorted(SUFFIXES))}, not {suffix[:20]!r}")
    return suffix


def artifact_name(key: str, sha256: str, suffix: str) -> str:
    """The one name that an artifact with this content may have; equal content has an equal name."""
    return f"{key}-{sha256[:16]}.{suffix}"


def key_of_artifact(name: str) -> str | None:
    """The key in an artifact's file name, or ``None`` for a file that is none of ours."""
    match = ARTIFACT.fullmatch(name)
    return match[1] if match else None


def key_of_manifest(name: str) -> str | None:
    """The key in a manifest's file name, or ``None`` for a file that is none of ours."""
    match = _MANIFEST.fullmatch(name)
    return match[1] if match else None


def key_of_gone(name: str) -> str | None:
    """The key whose manifest a collector has taken away, or ``None`` for any other file."""
    return key_of_manifest(name[1:].removesuffix(_GONE)) if name.startswith(".") and name.endswith(_GONE) else None


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one cache home.

    Attributes:
        home: ``MLC_LLM_HOME``.
        library: ``home/model_lib``, where upstream keeps its libraries too.
    """

    home: Path
    library: Path
    locks: Path
    staging: Path
    quarantine: Path
    used: Path
    logs: Path

    @classmethod
    def of(cls, home: Path) -> Layout:
        """The layout of a home; nothing is made."""
        library = home / "model_lib"
        folders = (library / name for name in (".locks", ".staging", ".quarantine", ".used", ".logs"))
        return cls(home, library, *folders)

    def manifest(self, key: str) -> Path:
        """The key's manifest, whether or not it exists."""
        return self.library / f"{key}.json"

    def gone(self, key: str) -> Path:
        """Where a collector puts the key's manifest while it decides for good."""
        return self.library / f".{key}.json{_GONE}"
