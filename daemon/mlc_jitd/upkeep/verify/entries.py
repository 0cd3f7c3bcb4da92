"""One entry examined: whether it would be handed out, and whether its manifest says what its key says.

The first is asked of ``Store.find`` itself, so that verification and the daemon can't disagree.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit.errors import RequestError, StoreError
from mlc_jitd.identity.canonical import PART_NAMES, Part, digest, key_of
from mlc_jitd.store import Missing
from mlc_jitd.upkeep.verify.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlc_jitd.store import Entry, Manifest, Store

_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_WRITABLE = 0o222


@dataclass(slots=True)
class Tally:
    """How far a verification is: entries looked at of all, how many were whole, and their bytes."""

    of: int
    done: int = 0
    whole: int = 0
    bytes: int = 0


def chosen(prefixes: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The keys that begin so, one for each beginning.

    Raises:
        RequestError: It is no key's beginning, or no key or several begin so.
    """
    found: list[str] = []
    for prefix in prefixes:
        if _PREFIX.fullmatch(prefix) is None:
            raise RequestError(
                f"{prefix[:80]!r} is not the beginning of a key: those are 64 hex digits.",
                remedy="`mlc-jit list` shows keys.",
            )
        matching = [key for key in keys if key.startswith(prefix)]
        if not matching:
            raise RequestError(
                f"No entry's key begins with {prefix!r}.", remedy="`mlc-jit list` shows keys.", reason="absent"
            )
        if len(matching) > 1:
            some = ", ".join(key[:12] for key in matching[:5])
            raise RequestError(f"{len(matching)} keys begin with {prefix!r}: {some}.", remedy="Give more of the key.")
        found += matching
    return found


def examine(store: Store, key: str, tally: Tally, *, repair: bool) -> Iterator[Finding]:
    """What is wrong with one entry; nothing, if it was collected meanwhile.

    Args:
        store: Opened where it shall be repaired, else as made.
        key: 64 hex digits.
        tally: Is kept.
        repair: Move it to quarantine if it is damaged.

    Raises:
        StoreError: This process or the file system is in trouble.
    """
    tally.done += 1
    manifest = store.manifest(key)
    answer = store.find(key)
    if isinstance(answer, Missing):
        finding = _missing(store, key, manifest, answer)
        if finding is not None:
            yield finding
        return
    tally.bytes += answer.entry.size
    wrong = contradiction(answer.entry.manifest)
    if wrong:
        yield _contradicted(store, answer.entry, wrong, repair=repair)
        return
    tally.whole += 1
    yield from _unsealed(answer.entry)


def contradiction(manifest: Manifest) -> str:
    """How a manifest's parts contradict its key, or an empty string; a manifest without parts contradicts nothing."""
    if not manifest.parts:
        return ""
    if set(manifest.parts) != set(PART_NAMES):
        return "its manifest names other parts than a key has"
    for name, part in manifest.parts.items():
        if digest(part.value) != part.sha256:
            return f"its manifest's {name} part does not have the hash that stands beside it"
    if key_of(tuple(Part(name, None, manifest.parts[name].sha256) for name in PART_NAMES)) != manifest.key:
        return "its manifest's parts make another key"
    return ""


def again(manifest: Manifest | None) -> str:
    """The command that compiles the same again, or an empty string where the manifest does not tell."""
    if manifest is None or not manifest.model.path or not manifest.device:
        return ""
    words = ["mlc-jit", "compile", manifest.model.path, "--device", manifest.device]
    opt, overrides = (manifest.parts[name].value if name in manifest.parts else None for name in ("opt", "overrides"))
    if isinstance(opt, str) and opt != "O2":
        words += ["--opt", opt]
    if isinstance(overrides, dict) and overrides:
        words += ["--overrides", ";".join(f"{name}={_text(value)}" for name, value in sorted(overrides.items()))]
    if manifest.system_lib_prefix:
        words += ["--system-lib-prefix", manifest.system_lib_prefix]
    return shlex.join(words)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _missing(store: Store, key: str, manifest: Manifest | None, answer: Missing) -> Finding | None:
    path = str(store.layout.manifest(key))
    if answer.reason == "foreign":
        return Finding(
            kind="foreign", level="problem", found=answer.detail, remedy=answer.remedy, key=key, path=path,
            again=again(manifest),
        )  # fmt: skip
    if answer.reason == "absent":
        if not os.path.lexists(path):
            return None
        return Finding(kind="newer", level="note", found=answer.detail, remedy=answer.remedy, key=key, path=path)
    repaired = not os.path.lexists(path)
    return _damage(answer.detail, key, path, manifest, repaired=repaired)


def _damage(found: str, key: str, path: str, manifest: Manifest | None, *, repaired: bool) -> Finding:
    command = again(manifest)
    compile_ = f"`{command}` compiles it again" if command else "the next request for its model compiles it again"
    if not repaired:
        compile_ = f"`mlc-jit verify --repair` sets it aside; {compile_}"
    return Finding(
        kind="damaged",
        level="problem",
        found=found,
        remedy=compile_[:1].upper() + compile_[1:] + ".",
        key=key,
        path=path,
        again=command,
        repaired=repaired,
    )


def _contradicted(store: Store, entry: Entry, wrong: str, *, repair: bool) -> Finding:
    kept, repaired = "left in place: it is only read here", False
    if repair:
        try:
            kept, repaired = _set_aside(store, entry, wrong)
        except StoreError as error:
            kept = f"left in place: {error.message}"
    # What such a manifest says is no reason to compile anything.
    return _damage(f"{wrong} ({kept})", entry.key, entry.manifest_path, None, repaired=repaired)


def _set_aside(store: Store, entry: Entry, wrong: str) -> tuple[str, bool]:
    lock = store.lock(entry.key)
    if not lock.acquire(0):
        return "left in place: another process is making it anew", False
    try:
        return store.set_aside(entry, wrong), True
    finally:
        lock.release()


def _unsealed(entry: Entry) -> Iterator[Finding]:
    try:
        mode = os.lstat(entry.path).st_mode
    except FileNotFoundError:
        return
    if mode & _WRITABLE:
        yield Finding(
            kind="unsealed",
            level="note",
            found=f"{entry.path} can be written by its owner, so a slip could change a library in use",
            remedy=f"Run: chmod a-w {shlex.quote(entry.path)}",
            key=entry.key,
            path=entry.path,
        )
