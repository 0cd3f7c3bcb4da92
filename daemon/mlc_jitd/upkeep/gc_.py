"""Bring the cache within its bounds now, and say of every library why it stays or goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlc_jit.locations import made_home
from mlc_jitd.asks import Asks
from mlc_jitd.bounds import rules_of
from mlc_jitd.config import Settings
from mlc_jitd.lending import leases_here
from mlc_jitd.sources import flag
from mlc_jitd.store import Collector, KernelStore, Store, Uses
from mlc_jitd.store.collection import explain

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.store import Manifest
    from mlc_jitd.store.collection import Decision
    from mlc_jitd.store.collector import Collection
    from mlc_jitd.upkeep import Tell

BOUNDS = ("max_size", "min_free", "max_age_days", "stale_days", "grace_seconds")
"""Settings that may be given for once."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    for name in BOUNDS:
        parser.add_argument(flag(name), help="instead of the setting")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Collect.

    Raises:
        RequestError: A bound has no good value.
        StoreError: The cache can't be looked at, or nothing can be removed from it.
    """
    given = {name: getattr(arguments, name) for name in BOUNDS if getattr(arguments, name) is not None}
    settings = Settings.load(flags=given)
    leases = leases_here()
    store = Store(made_home(), leased=leases.held)
    store.open(writable=not arguments.dry_run)
    manifests = {each.key: each for each in store.manifests()}
    asks = Asks(store.layout.library)
    done = Collector(store, leases, Uses(store.layout.used)).collect(
        rules_of(settings, store.layout.library), pinned=asks.protected(), stale=asks.stale(), dry=arguments.dry_run
    )
    kernels = KernelStore(store.layout.library, limit=0).totals().bytes
    return report(done, manifests, home=str(store.layout.home), dry=arguments.dry_run, kernels=kernels)


def report(done: Collection, manifests: dict[str, Manifest], *, home: str, dry: bool, kernels: int) -> dict[str, Any]:
    """A collection as JSON values; sizes in bytes, times in seconds. ``kernels``: what they take now."""

    def row(each: Decision) -> dict[str, Any]:
        manifest = manifests.get(each.candidate.key)
        return {
            "key": each.candidate.key,
            "artifact": each.candidate.artifact,
            "kind": each.candidate.kind,
            "size": each.candidate.size,
            "used": each.candidate.used,
            "model": manifest.model.path if manifest else "",
            "reason": each.reason,
            "why": explain(each, done.rules, done.facts),
        }

    gone = [each for each in done.plan.decisions if each.candidate.artifact in done.removed]
    kept = [each for each in done.plan.decisions if each.candidate.artifact not in done.removed]
    return {
        "dry_run": dry,
        "home": home,
        "when": time.time(),
        "seconds": done.seconds,
        "rules": {
            "max_size": done.rules.max_size,
            "min_free": done.rules.min_free,
            "max_age": done.rules.max_age,
            "stale_age": done.rules.stale_age,
            "grace": done.rules.grace,
        },
        "free": done.facts.free,
        "before": done.plan.before,
        "after": done.plan.before - done.freed,
        "freed": done.freed,
        "over": done.plan.over,
        "short": done.plan.short,
        "remains": done.remains,
        "kernels": kernels,
        "kernels_freed": done.kernels,
        "removed": [row(each) for each in gone],
        "kept": [row(each) for each in sorted(kept, key=lambda each: -each.candidate.used)],
    }
