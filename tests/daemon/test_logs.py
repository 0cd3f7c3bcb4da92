"""The log's forms: each line can be read back as what was said, whatever is in it."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import until
from mlc_jit import jit
from mlc_jitd import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.daemons import Daemon, Place
    from harness.doubles import Double


def record(text: str, level: int = logging.WARNING, /, **values: object) -> logging.LogRecord:
    found = logging.LogRecord("mlc_jitd.x", level, "/a/x.py", 7, text, (), None, "f")
    found.facts = values
    return found


@pytest.fixture
def journal(place: Place) -> Iterator[socket.socket]:
    """Where datagrams to the journal arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(place.root / "journal"))
        sock.settimeout(5)
        yield sock


def fields(datagram: bytes) -> dict[str, str]:
    """A datagram, read as its specification says."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", rest)
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        found[name.decode("ascii")] = value.decode()
        datagram = rest
    return found


NASTY = 'line one\nline "two"\tü\x1b[31m \udcff'


def test_a_line_of_json_is_one_line() -> None:
    text = logs.Json().format(record(NASTY, key="ab", seconds=1.5, message="no"))
    assert "\n" not in text
    found = json.loads(text)
    assert (found["message"], found["key"], found["seconds"], found["level"]) == (NASTY, "ab", 1.5, "warning")
    assert found["time"].endswith("Z")


def test_json_has_the_traceback() -> None:
    try:
        int("why")
    except ValueError:
        found = logging.LogRecord("x", logging.ERROR, "/x.py", 1, "it failed", (), sys.exc_info())
    assert "ValueError: invalid literal" in json.loads(logs.Json().format(found))["exception"]


@pytest.mark.parametrize("text", ["plain", NASTY, "a=b", "", "x" * 200_000])
def test_what_the_journal_gets(journal: socket.socket, text: str) -> None:
    handler = logs.Journal(journal.getsockname())
    try:
        handler.handle(record(text, key="ab", why=NASTY))
    finally:
        handler.close()
    found = fields(journal.recv(1 << 20))
    assert found["MESSAGE"] == text[: logs.LONGEST].encode("utf-8", "backslashreplace").decode()
    assert found["MLC_JITD_KEY"] == "ab"
    assert found["MLC_JITD_WHY"].startswith("line one\nline")
    assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"], found["CODE_LINE"]) == ("4", "mlc-jitd", "7")


def test_without_a_journal_each_line_has_its_priority() -> None:
    assert logs.Prefixed().format(record("one\ntwo", logging.ERROR)) == "<3>mlc_jitd.x: one\n<3>two"
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    assert [logs.priority(level) for level in levels] == [2, 3, 4, 6, 7]


def test_a_stream_is_the_journals_where_the_manager_says_so(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        about = os.fstat(file.fileno())
        right = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        assert logs.leads_to_journal(right, file.fileno())
        assert not logs.leads_to_journal({"JOURNAL_STREAM": "1:2"}, file.fileno())
        assert not logs.leads_to_journal({}, file.fileno())


CODE = """
import logging, os, sys
from mlc_jitd import logs
logs.JOURNAL = sys.argv[1]
logs.Journal.__init__.__defaults__ = (sys.argv[1],)
about = os.fstat(2)
logs.set_up(None, level=logging.INFO, form="auto", environ={"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})
logging.getLogger("a").warning("hello", extra=logs.facts(event="x"))
"""


def said(journal: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", CODE, journal], capture_output=True, text=True, check=True)
    return done.stderr


def test_auto_takes_the_journal_and_does_without(journal: socket.socket, place: Place) -> None:
    assert said(journal.getsockname()) == ""
    assert fields(journal.recv(65536))["MLC_JITD_EVENT"] == "x"
    assert said(str(place.root / "none")) == "<4>a: hello\n"


def test_a_daemon_that_logs_json(double: Double, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(MLC_JITD_LOG_FORMAT="json")
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path

    def events() -> dict[str, dict[str, Any]]:
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        return {line["event"]: line for line in lines if "event" in line}

    until(lambda: "compiled" in events())
    assert events()["miss"]["reason"] == "absent"
    assert events()["compiled"]["key"] in path
    assert events()["compiled"]["model"] == str(model)
