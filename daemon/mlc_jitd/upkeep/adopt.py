"""List what lies under upstream's names in the cache: its own libraries, and copies of ours.

Nothing is adopted in the sense of an entry: a manifest says which compiler made a library, and of upstream's nobody
knows that.
"""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING, Any

from mlc_jit.locations import cache_home
from mlc_jitd.store import Layout
from mlc_jitd.store.upstream import Left, UpstreamNames

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none; the models are the client's to resolve."""
    del parser


def run(_arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Do it."""
    layout = Layout.of(cache_home())
    return {"folder": str(layout.library), "files": [_plain(left) for left in UpstreamNames(layout).left()]}


def _plain(left: Left) -> dict[str, Any]:
    copy = left.copy
    return {
        "file": left.path.name,
        "path": str(left.path),
        "size": left.size,
        "modified": left.modified,
        "uid": left.uid,
        "owner": _owner(left.uid),
        "made_by": "unknown" if copy is None else "mlc-jitd",
        "key": "" if copy is None else copy.key,
        "toolchain": "" if copy is None else copy.versions,
        "doubt": left.doubt,
        "remedy": left.remedy,
    }


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
