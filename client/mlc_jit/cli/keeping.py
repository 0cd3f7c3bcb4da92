"""What ``pin``, ``unpin`` and ``prewarm`` share: one word to the daemon about what it shall keep, or to no daemon."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.cli.asking import answer
from mlc_jit.cli.upkeep import upkeep
from mlc_jit.errors import DaemonUnavailableError

if TYPE_CHECKING:
    from typing import Literal

_KEY = re.compile(r"[0-9a-f]{4,64}", re.ASCII)


def keep(
    *,
    ask: m.JitRequest | None = None,
    folder: str = "",
    key: str = "",
    how: Literal["", "prewarm", "pin"] = "",
    daemon: bool = True,
) -> m.Kept:
    """Have something kept, or let go: by the running daemon, or else in a process of its own.

    Args:
        ask: The request whose entry is meant; or
        folder: a model folder; or
        key: a key, or its beginning.
        how: See ``Keep``.
        daemon: Whether a running one may be asked.

    Raises:
        JitError: It can't be.
    """
    if daemon:
        try:
            return answer(lambda id_: m.Keep(id=id_, ask=ask, folder=folder, key=key, keep=how), m.Kept)
        except DaemonUnavailableError as error:
            if error.reason not in ("down", "gone"):
                raise
    with tempfile.NamedTemporaryFile(prefix="mlc-jit-", suffix=".msgpack") as file:
        file.write(m.encode(m.Keep(ask=ask, folder=folder, key=key, keep=how)))
        file.flush()
        found = upkeep("keep", file.name)
    return m.Kept(keys=tuple(found["keys"]), folder=found["folder"], keep=found["keep"])


def is_key(word: str) -> bool:
    """Whether a word of the command line is a key, or its beginning, and not a folder."""
    return _KEY.fullmatch(word) is not None and not Path(word).is_dir()


def absolute(model: str) -> str:
    """A model folder as the daemon knows it."""
    return os.path.abspath(model)  # noqa: PTH100 - it need not exist any more
