"""Where the daemon's log goes, and in which form: text, lines of JSON, or systemd's journal with its fields.

A line may have facts of its own: ``logger.info("...", extra=facts(key=key))``. Text leaves them out, JSON and the
journal have them. The journal is spoken to in its own protocol, which needs no library:
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Where that can't be had, lines get the priority of sd-daemon(3).
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import logging.handlers
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM = "%(asctime)s %(levelname).1s %(name)s: %(message)s"

LOG_BYTES = 8 << 20
"""A log file that is longer is put aside, and the one before it goes."""

JOURNAL = "/run/systemd/journal/socket"
LONGEST = 32 << 10
"""Characters of one field: a datagram to the journal has its bound."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Those of syslog(3)."""


def facts(**values: object) -> dict[str, Any]:
    """The ``extra`` of a log call; names in lower case, values that JSON knows."""
    return {"facts": values}


def set_up(path: str | None, *, level: int, form: str = "text", environ: Mapping[str, str] | None = None) -> None:
    """Have this process log.

    Args:
        path: To this file; ``None`` for standard error.
        level: From this level on.
        form: ``text``, ``json``, or ``auto``: the journal where standard error leads there, else text.
        environ: Says whether it does.
    """
    formatter: logging.Formatter = Json() if form == "json" else logging.Formatter(FORM)
    handler: logging.Handler
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=1, errors="backslashreplace"
        )
    elif form == "auto" and leads_to_journal(os.environ if environ is None else environ):
        try:
            handler, formatter = Journal(), logging.Formatter("%(message)s")
        except OSError:
            handler, formatter = logging.StreamHandler(sys.stderr), Prefixed()
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level)


def leads_to_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether a stream of this process is the journal's: systemd.exec(5), JOURNAL_STREAM."""
    try:
        about = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, thread, message, the line's own facts, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        found: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "pid": record.process,
            "message": record.getMessage(),
        }
        found |= {name: value for name, value in _facts(record).items() if name not in found}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class Prefixed(logging.Formatter):
    """Text with a priority before each line."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The lines."""
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class Journal(logging.Handler):
    """Sends each record to the journal.

    Args:
        address: Its socket.

    Raises:
        OSError: It is not there.
    """

    def __init__(self, address: str = JOURNAL) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send it; what can't be sent goes to standard error."""
        try:
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": priority(record.levelno),
                "SYSLOG_IDENTIFIER": "mlc-jitd",
                "LOGGER": record.name,
                "THREAD_NAME": record.threadName,
                "CODE_FILE": record.pathname,
                "CODE_LINE": record.lineno,
                "CODE_FUNC": record.funcName,
            }
            fields |= {f"MLC_JITD_{name.upper()}": value for name, value in _facts(record).items()}
            self._socket.send(b"".join(_field(name, str(value)[:LONGEST]) for name, value in fields.items()))
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()
        super().close()


def priority(level: int) -> int:
    """The priority of a level."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "facts", {})
    return found


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode("ascii") + b"=" + data + b"\n"
