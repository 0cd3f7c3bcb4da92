"""Where metrics are scraped: HTTP on the loopback interface or a Unix socket, in threads of its own.

A scraper has a few seconds for all of its visit, and few are served at a time: whoever is slow, silent or in a flood
loses its own visit and holds up nobody else. What does not belong here: what a scrape says (``collector``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import select
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

VISIT_SECONDS = 5.0
VISITORS = 4
HEAD_BYTES = 8192


def listen(address: str) -> socket.socket:
    """A listening socket for a setting: ``127.0.0.1:9464``, ``[::1]:9464`` or ``unix:/path``.

    Raises:
        RequestError: It can't be had, or others than this host could reach it.
    """
    try:
        if address.startswith("unix:"):
            return _unix(Path(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET  # noqa: PLR2004
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(port)))
            listener.listen(VISITORS * 2)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise RequestError(
            f"metrics = {address!r}: nothing can listen there: {error.strerror or error}.",
            remedy="Choose another address or port, or end whoever has it.",
        ) from error
    return listener


def _unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):  # of a daemon before; anything else is not ours to remove
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)  # nobody can connect before it listens
        listener.listen(VISITORS * 2)
    except BaseException:
        listener.close()
        raise
    return listener


class Endpoint:
    """Answers scrapes until it is closed.

    Args:
        listener: Where; taken over.
        render: The type and the body of an answer, for an ``Accept`` header.
    """

    def __init__(self, listener: socket.socket, render: Callable[[str], tuple[str, bytes]]) -> None:
        self._listener = listener
        self._render = render
        self._slots = threading.BoundedSemaphore(VISITORS)
        self._wake_r, self._wake_w = os.pipe()
        name = listener.getsockname()
        self._path = Path(name) if listener.family == socket.AF_UNIX else None
        self.address = name if isinstance(name, str) else f"{name[0]}:{name[1]}"
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more visitors."""
        os.write(self._wake_w, b"\0")
        self._thread.join(2.0)
        self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while not any(fd == self._wake_r for fd, _ in poll.poll()):
            try:
                visitor, _ = self._listener.accept()
            except OSError as error:  # it went again, or no descriptor is free
                logger.debug("a scrape could not be accepted: %s", error)
                time.sleep(0.1)
                continue
            if not self._slots.acquire(blocking=False):
                visitor.close()
                continue
            try:
                threading.Thread(target=self._visit, args=(visitor,), name="metrics-visit", daemon=True).start()
            except RuntimeError:  # no thread to be had
                visitor.close()
                self._slots.release()

    def _visit(self, visitor: socket.socket) -> None:
        deadline = time.monotonic() + VISIT_SECONDS
        try:
            with visitor:
                head = _head(visitor, deadline)
                if head:
                    _send(visitor, self._answer(head), deadline)
        except OSError as error:
            logger.debug("a scrape came to nothing: %s", error)
        except Exception:
            logger.exception("metrics could not be told")
        finally:
            self._slots.release()

    def _answer(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", "text/plain; charset=utf-8", b"Only GET is answered.\n")
        if path not in ("/metrics", "/"):
            return _response("404 Not Found", "text/plain; charset=utf-8", b"The metrics are at /metrics.\n")
        accept = next((line.partition(":")[2].strip() for line in lines if line[:7].lower() == "accept:"), "")
        kind, body = self._render(accept)
        return _response("200 OK", kind, b"" if method == "HEAD" else body)


def _head(visitor: socket.socket, deadline: float) -> bytes:
    """The lines before the body; nothing from who sends no request."""
    head = b""
    while b"\r\n\r\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0 or len(head) > HEAD_BYTES:
            return b""
        visitor.settimeout(left)
        chunk = visitor.recv(4096)
        if not chunk:
            return b""
        head += chunk
    return head.partition(b"\r\n\r\n")[0]


def _send(visitor: socket.socket, answer: bytes, deadline: float) -> None:
    visitor.settimeout(max(0.1, deadline - time.monotonic()))  # for all of it: the socket's own rule
    visitor.sendall(answer)
    visitor.shutdown(socket.SHUT_WR)


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("latin-1") + body
