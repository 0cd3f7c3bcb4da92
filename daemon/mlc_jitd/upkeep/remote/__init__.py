"""Look after the bucket that a fleet shares: what it holds, push and pull, what goes, what is wrong; make a key.

Each action works with the settings of a daemon (`remote`, `remote_key`, `remote_trust`), and needs none that runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import JitError, RequestError, StoreError
from mlc_jit.locations import made_home
from mlc_jitd.config import Settings
from mlc_jitd.store import LayeredStore, layers_of

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.fleet.tier import Tier
    from mlc_jitd.upkeep import Tell

UNUSED_DAYS = 90.0


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="action", required=True)
    for name in ("ls", "push", "pull", "verify"):
        verb = verbs.add_parser(name)
        verb.add_argument("keys", nargs="*", help="keys, or their beginnings")
        if name in {"push", "pull"}:
            verb.add_argument("--all", action="store_true", help="every library")
        if name == "push":
            verb.add_argument("--again", action="store_true", help="replace what this key has signed before")
        if name == "verify":
            verb.add_argument("--quick", action="store_true", help="do not read the libraries")
            verb.add_argument("--repair", action="store_true", help="remove what is wrong")
    gc = verbs.add_parser("gc")
    gc.add_argument("--unused-days", type=float, default=UNUSED_DAYS)
    gc.add_argument("--max-age-days", type=float, default=0.0)
    gc.add_argument("--dry-run", action="store_true")
    keygen = verbs.add_parser("keygen")
    keygen.add_argument("file", type=Path)


def run(arguments: argparse.Namespace, tell: Tell) -> Any:
    """Do it.

    Raises:
        RequestError: The settings or the arguments are no good.
        StoreError: The cache or the bucket is in trouble.
    """
    if arguments.action == "keygen":
        return _keygen(arguments.file)
    tier = _tier()
    from mlc_jitd.fleet.objects import RemoteError  # noqa: PLC0415 - the extra may be missing: `_tier` would have said so
    from mlc_jitd.upkeep.remote import actions  # noqa: PLC0415 - likewise

    try:
        return getattr(actions, arguments.action)(tier, arguments, tell)
    except RemoteError as error:
        remedy = "See to the bucket, its address (`remote`) and the credentials; docs/fleet.md says which are used."
        raise StoreError(f"{tier.url}: {error}.", remedy=remedy, reason="remote") from error


def _tier() -> Tier:
    settings = Settings.load()
    if not settings.remote:
        raise RequestError("No bucket is set.", remedy="Set `remote` (MLC_JITD_REMOTE); docs/fleet.md has the rest.")
    store = LayeredStore(made_home(), layers_of(settings.layers))
    store.open()
    from mlc_jitd.fleet.joining import join  # noqa: PLC0415 - most hosts have no bucket

    return join(settings, store)


def _keygen(path: Path) -> Any:
    try:
        from mlc_jitd.fleet.keys import make_key  # noqa: PLC0415 - the extra may be missing
    except ImportError as error:
        remedy = "pip install 'mlc-jitd[fleet]'."
        raise RequestError(f"{error.name} is not installed.", remedy=remedy) from error
    path = path.absolute()
    try:
        public = make_key(path)
    except OSError as error:
        remedy = "Name a file that is not there yet, in a folder that can be written."
        raise JitError(f"{error.filename}: {error.strerror}.", remedy=remedy, reason="keygen") from error
    return {"file": str(path), "public": public.text, "name": public.name}
