"""What happens in a daemon, as it happens: for programs that look after a cache. ``jit()`` needs none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.channel import query
from mlc_jit.errors import DaemonUnavailableError, ProtocolError
from mlc_jit.locations import locate
from mlc_jit.settings import silence_seconds

if TYPE_CHECKING:
    from collections.abc import Generator


def watch() -> Generator[m.Event, None, None]:
    """Events of the running daemon, until it ends; starts none.

    ::

        for event in mlc_jit.watch():
            print(event.what, event.folder, event.key)

    The first event is ``watching``: what happens from then on is told. The last is ``ended``, unless the daemon died.
    Words that a program does not know are to be passed over. Close the generator, or leave the loop, to end it; each
    runs in the thread that iterates it.

    Raises:
        DaemonUnavailableError: None is running (``reason`` ``down``), or it does not answer (``silent``).
        ProtocolError: It is another version's and can't tell.

    Not guaranteed: that a change is told of at once, or that two changes in quick succession are told of both.
    """
    try:
        for reply in query(locate().socket, lambda id_: m.WatchRequest(id=id_), silence=silence_seconds()):
            if isinstance(reply, m.Unsupported):
                raise ProtocolError(
                    "The running daemon does not know `watch`: it is another version's.",
                    remedy="`mlc-jit stop` ends it; the next request starts this version's.",
                )
            if isinstance(reply, m.Event):
                yield reply
                if reply.what == "ended":
                    return
    except DaemonUnavailableError as error:
        if error.reason != "gone":
            raise
