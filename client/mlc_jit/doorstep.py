"""Where a user's own daemon is found, as plain texts: what a process needs to know before its first word to it.

``locations`` has the same places as paths, with errors that explain themselves, and makes the home. Here a trouble is
``None``: whoever meets one goes the long way. What does not belong here: asking anybody.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mlc_jit import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

SUN_PATH_BYTES = 104 if sys.platform == "darwin" else 108
"""The longest Unix socket path, with its terminating zero byte."""


class Doorstep:
    """The texts that belong to one cache home.

    Attributes:
        home: The cache home (``MLC_LLM_HOME``).
        inode: Its device and inode, which name the daemon's files.
        runtime: The private folder that holds them.
        socket: The daemon's socket.
        named: Whether that was named on purpose (``MLC_JITD_SOCKET``), so that it may be anywhere and anybody's.
    """

    __slots__ = ("home", "inode", "named", "runtime", "socket")

    def __init__(self, home: str, inode: tuple[int, int], env: Mapping[str, str]) -> None:
        self.home = home
        self.inode = inode
        self.runtime = env.get("MLC_JITD_RUNTIME_DIR") or default_runtime()
        socket = env.get("MLC_JITD_SOCKET")
        self.named = bool(socket)
        self.socket = socket or f"{self.stem}.sock"

    @property
    def stem(self) -> str:
        """What the paths of the daemon's files begin with."""
        return f"{self.runtime}/{self.inode[0]:x}-{self.inode[1]:x}"


def own() -> Doorstep | None:
    """This process's, if its cache home exists; the same object while variables and home are what they were."""
    global _last  # noqa: PLW0603
    state = environment.state()
    last = _last
    try:
        home = last[1].home if last is not None and last[0] is state else cache_home(os.environ)
        if home is None:
            return None
        about = os.stat(home)  # noqa: PTH116 - on the hit path
    except (OSError, ValueError):
        return None
    inode = (about.st_dev, about.st_ino)
    if last is not None and last[0] is state and last[1].inode == inode:
        return last[1]
    found = Doorstep(home, inode, os.environ)
    _last = (state, found)
    return found


_last: tuple[environment.State, Doorstep] | None = None


def cache_home(env: Mapping[str, str]) -> str | None:
    """The cache home, by upstream's rule: MLC_LLM_HOME, else XDG_CACHE_HOME/mlc_llm, else ~/.cache/mlc_llm."""
    if env.get("MLC_LLM_HOME"):
        return _absolute(env["MLC_LLM_HOME"])
    if env.get("XDG_CACHE_HOME"):
        return f"{_absolute(env['XDG_CACHE_HOME'])}/mlc_llm"
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where this leaves the tilde
    if not home.startswith("/") or home == "/":
        return None
    return f"{home.rstrip('/')}/.cache/mlc_llm"


def default_runtime() -> str:
    """``/tmp/mlc-jitd-UID``: the same for every process of the user, and short."""
    return f"/tmp/mlc-jitd-{os.getuid()}"  # noqa: S108 - made 0700 and checked by private_folder()


def _absolute(path: str) -> str:
    """As ``Path.absolute``: what is named, from where this process is."""
    return path.rstrip("/") if path.startswith("/") else os.path.join(os.getcwd(), path).rstrip("/")  # noqa: PTH109, PTH118
