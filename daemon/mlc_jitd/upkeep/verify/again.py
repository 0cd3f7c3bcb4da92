"""``--recompile``: an entry compiled once more, outside the cache, and what the two libraries compute compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError
from mlc_jitd.comparison import cannot_run
from mlc_jitd.config import Settings
from mlc_jitd.identity import Identifier
from mlc_jitd.recompile import Means, recompile, same_identity
from mlc_jitd.schedule import capacity
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.jobs import Settings as QueueSettings
from mlc_jitd.store import Found
from mlc_jitd.toolchains import toolchain

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlc_jitd.store import Entry, Store


def prove(store: Store, key: str, tell: Callable[[Any], None], *, memory: Path) -> dict[str, Any] | None:
    """One entry, as JSON values: ``verdict`` is ``equal``, ``different``, ``not-compared`` or ``failed``.

    Args:
        store: Is only read.
        key: 64 hex digits.
        tell: Told each stage.
        memory: Where an ``Identifier`` keeps what it found out.

    Returns:
        ``None`` for an entry that is not whole: that is another finding.
    """
    answer = store.find(key)
    if not isinstance(answer, Found):
        return None
    manifest = answer.entry.manifest
    found: dict[str, Any] = {"key": key, "verdict": "not-compared", "why": "", "remedy": "", "seconds": 0.0}
    target = manifest.parts["target"].value if "target" in manifest.parts else None
    why = cannot_run(target.get("target") if isinstance(target, dict) else None, manifest.suffix)
    if why:
        return {**found, "why": why, "remedy": "Run this where such libraries run, or trust the digest."}
    try:
        with tempfile.TemporaryDirectory(prefix="mlc-jitd-verify-") as scratch:
            return {**found, **_prove(answer.entry, Path(scratch), tell, memory)}
    except JitError as error:
        return {**found, "verdict": "failed", "why": error.message, "remedy": error.remedy, "reason": error.reason}
    except OSError as error:
        return {
            **found,
            "verdict": "failed",
            "why": f"no room to work in: {error}",
            "remedy": "Set TMPDIR to a folder with more room.",
        }


def _prove(entry: Entry, scratch: Path, tell: Callable[[Any], None], memory: Path) -> dict[str, Any]:
    settings = Settings.load(strict=False)
    host = capacity.read()
    library = _copy(entry, scratch)
    tell({"stage": "identity", "detail": entry.key[:12]})
    identity = same_identity(Identifier(memory), entry.manifest, os.environ)
    proof = recompile(
        identity,
        library,
        toolchain(identity.toolchain.name),
        scratch=scratch,
        means=Means(
            cores=slots(host, QueueSettings(cores_per_job=settings.cores_per_job or None)).cores,
            memory=host.memory_available or None,
            seconds=settings.compile_seconds or None,
            silence=settings.silence_seconds or None,
        ),
        report=lambda stage, detail: tell({"stage": stage, "detail": detail}),
    )
    verdicts = {True: "equal", False: "different", None: "not-compared"}
    remedy = ""
    if proof.comparison.equal is False:
        remedy = "Ask for it with MLC_JIT_POLICY=REDO, and see whether the difference stays; please report it."
    return {
        "verdict": verdicts[proof.comparison.equal],
        "why": proof.comparison.why,
        "remedy": remedy,
        "seconds": proof.seconds,
        "comparison": proof.comparison.details,
    }


def _copy(entry: Entry, scratch: Path) -> Path:
    """A copy of the artifact: it may be collected while it is looked at."""
    copied = scratch / f"cached.{entry.manifest.suffix}"
    shutil.copyfile(entry.path, copied)
    with copied.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.manifest.sha256:
            raise OSError(f"the copy of {entry.path} is not what was copied")
    return copied
