"""Who asks, for people: a process by its kernel-told pid, and the program in it. Reads /proc; decides nothing.

Of a command line only the program's name is kept: arguments may be anybody's secrets.
"""

from __future__ import annotations

import os
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mlc_jitd.observe.record import Who

if TYPE_CHECKING:
    from mlc_jitd.peers import Peer

LONGEST = 48
"""Characters of a program's name."""

COMMAND_BYTES = 4096


def who(peer: Peer) -> Who:
    """The sender of a message; a process that has ended has no program."""
    return named_process(peer.pid, peer.uid)


def named_process(pid: int, uid: int) -> Who:
    """A process; one that has ended has no program."""
    return Who(pid=pid, uid=uid, program="mlc-jitd" if pid == os.getpid() else _program(pid))


def _program(pid: int) -> str:
    if pid <= 0 or sys.platform != "linux":
        return ""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - in the engine's thread
            words = file.read(COMMAND_BYTES).decode("utf-8", "replace").split("\0")[:-1]
    except OSError:
        return ""
    return named(words)


def named(words: list[str]) -> str:
    """The program in a command line: of an interpreter's the script or the module, else its own name."""
    if not words:
        return ""
    name = PurePosixPath(words[0]).name
    if name.startswith("python"):
        rest = iter(words[1:])
        for word in rest:
            if word == "-m":
                name = next(rest, name)
                break
            if word == "-c":
                break
            if word in ("-W", "-X"):
                next(rest, None)
            elif not word.startswith("-"):
                name = PurePosixPath(word).name
                break
    return "".join(letter if letter.isprintable() else "?" for letter in name[:LONGEST])
