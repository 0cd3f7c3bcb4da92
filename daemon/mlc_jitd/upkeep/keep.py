"""Pin, pre-warm or let go of an entry: what `mlc-jit pin`, `unpin` and `prewarm` do where no daemon runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.errors import ProtocolError
from mlc_jit.locations import made_home
from mlc_jitd.app import make_work
from mlc_jitd.asks import Asks
from mlc_jitd.config import Settings
from mlc_jitd.lending import leases_here
from mlc_jitd.watch import keep

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("message", type=Path, help="file that holds one `keep` message, as on the wire")


def run(arguments: argparse.Namespace, tell: Tell) -> dict[str, Any]:  # noqa: ARG001 - it takes no time
    """Do it.

    Raises:
        ProtocolError: The file holds something else.
    """
    message = m.decode(arguments.message.read_bytes(), m.REQUESTS, strict=True)
    if not isinstance(message, m.Keep):
        raise ProtocolError(f"`mlc-jitd keep` takes `keep`, not `{message.verb}`")
    work = make_work(made_home(), Settings.load(strict=False), leases=leases_here())
    kept = keep(work, Asks(work.store.layout.library), message, now=time.time())
    return {"keys": list(kept.keys), "folder": kept.folder, "keep": kept.keep}
