"""A daemon by the test's own script: what it hears is kept, and what it says is said by the test."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import zmq

from mlc_jit import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Scripted:
    """A ROUTER on a socket path. A context manager.

    Args:
        path: Where it listens.
        script: Called in its thread with each message and everything heard so far; what it returns is sent back,
            messages or bytes as they are.
    """

    def __init__(self, path: Path, script: Callable[[m.Message, list[m.Message]], list[Any]]) -> None:
        self.heard: list[m.Message] = []
        self._script = script
        self._over = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.setsockopt(zmq.RCVTIMEO, 20)
        self._router.bind(f"ipc://{path}")
        self._thread = threading.Thread(target=self._run, name="scripted")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self._router.close()
        self._context.term()

    def asked(self) -> list[m.JitRequest]:
        """The questions that were heard."""
        return [message for message in self.heard if isinstance(message, m.JitRequest)]

    def left(self) -> list[int]:
        """The ids that are no longer waited for."""
        return [message.id for message in self.heard if isinstance(message, m.Leave)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                identity, frame = self._router.recv_multipart()
            except zmq.Again:
                continue
            message = m.decode(frame, m.REQUESTS, strict=True)
            self.heard.append(message)
            for reply in self._script(message, self.heard):
                self._router.send_multipart([identity, reply if isinstance(reply, bytes) else m.encode(reply)])


def silent(_message: m.Message, _heard: list[Any]) -> list[m.Message]:
    """Says nothing."""
    return []


def busy(message: m.Message) -> m.Failure:
    """Its queue is full."""
    return m.Failure(id=message.id, kind="busy", message="The queue is full.", reason="queue-full")
