"""What `mlc-jit remote` does, an action each: what it finds or did, as JSON values."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError, RequestError
from mlc_jitd.fleet import recency
from mlc_jitd.fleet.catalogue import catalogue, rows, trouble
from mlc_jitd.fleet.held import LEASES
from mlc_jitd.fleet.libraries import BLOBS, LIBRARIES
from mlc_jitd.fleet.objects import RemoteError
from mlc_jitd.fleet.retention import DAY, Rules, plan
from mlc_jitd.fleet.signed import NOBODY, RefusedError
from mlc_jitd.store import Found

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from mlc_jitd.fleet.catalogue import Row
    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.upkeep import Tell

MOST_OBJECTS = 1_000_000
LEASE_DAYS = 1.0
"""Who holds one writes it anew every few seconds."""


def ls(tier: Tier, arguments: argparse.Namespace, _tell: Tell) -> Any:
    """What the bucket holds."""
    uses, _ = recency.last_uses(tier.bucket)
    found = list(rows(tier.bucket, tier.trust, only=_only(arguments.keys)))
    return {"url": tier.url, "libraries": [_shown(row, uses.get(row.key, 0.0)) for row in found]}


def push(tier: Tier, arguments: argparse.Namespace, tell: Tell) -> Any:
    """Put libraries of this cache into the bucket."""
    store = tier.store
    keys = _chosen(arguments, store.every_key(), "cache")
    if tier.key is None and not tier.writes:
        raise RequestError(
            "Nothing is put into the bucket from here: there is no key to sign with.",
            remedy="Set remote_key; or remote_write = always for a bucket without signatures.",
        )
    done = []
    for number, key in enumerate(keys):
        tell({"done": number, "of": len(keys), "key": key})
        answer = store.find(key)
        what, why = "failed", ""
        if not isinstance(answer, Found):
            why = answer.detail
        elif answer.entry.manifest.degraded:
            what, why = "skipped", f"degraded: {', '.join(answer.entry.manifest.degraded)}"
        else:
            try:
                what = tier.push(answer.entry, again=arguments.again)
            except (RemoteError, OSError, ValueError) as error:
                why = str(error)
        done.append({"key": key, "what": what, "why": why})
    return {"url": tier.url, "libraries": done}


def pull(tier: Tier, arguments: argparse.Namespace, tell: Tell) -> Any:
    """Get libraries of the bucket into this cache."""
    found = list(rows(tier.bucket, tier.trust, only=_only(arguments.keys)))
    _chosen(arguments, sorted({row.key for row in found}), "bucket")
    best: dict[str, Row] = {}
    for row in found:
        if row.key not in best or best[row.key].offer is None:
            best[row.key] = row
    done = []
    for number, (key, row) in enumerate(best.items()):
        tell({"done": number, "of": len(best), "key": key})
        what, why = "failed", row.why
        if row.offer is not None:
            try:
                here = isinstance(tier.store.find(key), Found)
                what = "there" if here or tier.take(key, row.offer) is not None else "busy"
                what = "pulled" if what == "there" and not here else what
            except (RemoteError, RefusedError, JitError, OSError) as error:
                what, why = "failed", str(error)
        else:
            what = "refused"
        done.append({"key": key, "what": what, "why": why})
    return {"url": tier.url, "libraries": done}


def gc(tier: Tier, arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Remove what was not used for long, and bytes that belong to nothing."""
    now = time.time()
    uses, told = recency.last_uses(tier.bucket)
    found = catalogue(tier.bucket, tier.trust)
    decided = plan(found, uses, Rules(arguments.unused_days, arguments.max_age_days), now)
    gone = [each for each in decided.verdicts if not each.keep]
    keep_days = max(arguments.unused_days, 1.0) + 1
    old = [name for name, at in told if arguments.unused_days and now - at > keep_days * DAY]
    leases = [
        each.name for each in tier.bucket.list(LEASES, most=MOST_OBJECTS) if now - each.modified > LEASE_DAYS * DAY
    ]
    if not arguments.dry_run:
        # The texts first: a library without its bytes would be asked for in vain.
        for names in ([each.row.meta.name for each in gone], decided.blobs, old, leases):
            tier.bucket.delete(names)

    def row(each: Any) -> dict[str, Any]:
        return {**_shown(each.row, each.used), "reason": each.why}

    return {
        "url": tier.url,
        "dry_run": arguments.dry_run,
        "removed": [row(each) for each in gone],
        "kept": [row(each) for each in decided.verdicts if each.keep],
        "blobs": len(decided.blobs),
        "freed": decided.bytes,
        "notes": len(old),
        "leases": len(leases),
    }


def verify(tier: Tier, arguments: argparse.Namespace, tell: Tell) -> Any:
    """Check signatures, keys and bytes."""
    blobs = {each.name.removeprefix(f"{BLOBS}/"): each for each in tier.bucket.list(BLOBS, most=MOST_OBJECTS)}
    found = list(rows(tier.bucket, tier.trust, only=_only(arguments.keys)))
    wrong = []
    for number, row in enumerate(found):
        tell({"done": number, "of": len(found), "key": row.key})
        why = trouble(tier.bucket, row, blobs=blobs, whole=not arguments.quick)
        if why:
            wrong.append({**_shown(row, 0.0), "why": why, "removed": arguments.repair})
            if arguments.repair:
                tier.bucket.delete([row.meta.name])
    used = {row.offer.blob for row in found if row.offer is not None}
    strays = [meta.size for blob, meta in blobs.items() if blob not in used and not arguments.keys]
    return {
        "url": tier.url,
        "libraries": len(found),
        "bytes": sum(row.offer.stored for row in found if row.offer is not None),
        "wrong": wrong,
        "strays": len(strays),
        "stray_bytes": sum(strays),
    }


def _only(beginnings: Iterable[str]) -> Callable[[str], bool]:
    wanted = tuple(beginnings)
    return lambda key: not wanted or key.startswith(wanted)


def _chosen(arguments: argparse.Namespace, keys: list[str], where: str) -> list[str]:
    """The keys that are meant."""
    if not arguments.keys and not arguments.all:
        raise RequestError("No library is named.", remedy="Give keys, or their beginnings, or --all.")
    for each in arguments.keys:
        if not any(key.startswith(each) for key in keys):
            raise RequestError(f"No library of the {where} has a key that begins with {each[:64]!r}.")
    return keys if arguments.all else [key for key in keys if key.startswith(tuple(arguments.keys))]


def _shown(row: Row, used: float) -> dict[str, Any]:
    """A library as JSON values; sizes in bytes, times as Unix times."""
    facts: dict[str, Any] = {
        "key": row.key,
        "name": row.meta.name.removeprefix(f"{LIBRARIES}/"),
        "modified": row.meta.modified,
        "used": used,
        "refused": row.why,
    }
    if row.offer is not None:
        said = row.offer.manifest
        facts |= {
            "signer": "" if row.offer.signer == NOBODY else row.offer.signer,
            "size": said.size,
            "stored": row.offer.stored,
            "model": f"{said.model.type} {said.model.quantization}".strip(),
            "device": said.device,
            "toolchain": said.toolchain.name,
            "created": said.created,
            "seconds": said.compile.seconds,
        }
    return facts
