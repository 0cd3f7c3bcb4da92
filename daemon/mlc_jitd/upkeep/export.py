"""Write entries of the cache to one file, for hosts without a network and for images."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import RequestError, StoreError
from mlc_jit.locations import cache_home
from mlc_jitd.asks import Asks
from mlc_jitd.config import Settings
from mlc_jitd.store import LayeredStore, archive, layers_of
from mlc_jitd.store.trouble import store_error

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.store import Manifest
    from mlc_jitd.upkeep import Tell

_PREFIX = re.compile(r"[0-9a-f]{6,64}", re.ASCII)
"""Six digits at least: a folder may be named `abc`."""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="*", help="keys, or their beginnings, or model folders")
    parser.add_argument("--all", action="store_true", help="every entry")
    parser.add_argument("-o", "--output", required=True, help="the file to write")


def run(arguments: argparse.Namespace, tell: Tell) -> Any:
    """Do it.

    Raises:
        RequestError: Nothing is there for something that was named.
        StoreError: An entry is not whole, or the file can't be written; there is none then.
    """
    store = LayeredStore(cache_home(), layers_of(Settings.load(strict=False).layers))
    everything = [(manifest, path) for _, path, manifest in store.everything()]
    if arguments.all == bool(arguments.what):
        raise RequestError("What shall be exported?", remedy="Name keys or model folders, or say --all.")
    chosen = everything if arguments.all else _chosen(arguments.what, everything, Asks(store.layout.library))
    output = Path(arguments.output).absolute()
    tell({"entries": len(chosen), "bytes": sum(manifest.size for manifest, _ in chosen)})
    size = _write(output, chosen)
    return {
        "file": str(output),
        "size": size,
        "entries": [{"key": m.key, "model": m.model.path, "device": m.device, "size": m.size} for m, _ in chosen],
    }


def _chosen(names: list[str], everything: list[tuple[Manifest, Path]], asks: Asks) -> list[tuple[Manifest, Path]]:
    found: dict[str, tuple[Manifest, Path]] = {}
    for name in names:
        matching = [each for each in everything if _PREFIX.fullmatch(name) and each[0].key.startswith(name)]
        if not matching:
            folder = os.path.abspath(name)  # noqa: PTH100 - not resolved: it is compared with what a client named
            known = asks.folder(folder)
            keys = known.current() if known is not None else frozenset()
            matching = [each for each in everything if each[0].key in keys or each[0].model.path == folder]
        if not matching:
            raise RequestError(
                f"The cache has no entry for {name!r}: it is neither the beginning of a key nor a model folder that "
                "was asked for.",
                remedy="`mlc-jit list` shows keys and models; `mlc-jit compile` makes an entry.",
                reason="absent",
            )
        found |= {manifest.key: (manifest, path) for manifest, path in matching}
    return list(found.values())


def _write(output: Path, chosen: list[tuple[Manifest, Path]]) -> int:
    draft = None
    try:
        descriptor, draft = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name[:80]}.")
        with os.fdopen(descriptor, "wb") as file:
            size = archive.write(file, chosen)
            os.fchmod(descriptor, 0o666 & ~_umask())
            archive.sync(file)
        os.replace(draft, output)  # noqa: PTH105 - a text path
    except archive.ArchiveError as error:
        raise StoreError(
            f"The export failed: {error}.",
            remedy="`mlc-jit verify` says what is wrong; if it was collected just now, ask for it again.",
            reason="damaged",
        ) from error
    except OSError as error:
        raise store_error(error, f"write {output.name}", output.parent) from error
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                os.unlink(draft)  # noqa: PTH108
    return size


def _umask() -> int:
    """The caller's; a temporary file is made without asking it. Not for a process with several threads."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
