"""``mlc-jit top``: how it looks at any size, and a terminal that is given back as it was."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until
from mlc_jit import messages as m
from mlc_jit.bars import Glyphs, cells
from mlc_jit.cli import topscreen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

NAMES = ("Llama-3.2-1B-Instruct-q4f16_1-MLC", "日本語モデル-q4f16_1", "tiny\x1b[31m", "a")
TOP = m.Top(
    version="0.1.0",
    pid=4242,
    uptime=7800,
    home="/h",
    slots=2,
    jobs=tuple(
        m.JobReport(
            key=f"{n:x}" * 64, state="queued" if n > 1 else "running", model=f"/models/{name}",
            stage="queued" if n > 1 else "code generation",
            detail=f"position {n}, starts in about 9 s" if n > 1 else "",
            fraction=None if n > 1 else 0.4, left=60.0, elapsed=12.0 * n, waiters=n,
        )
        for n, name in enumerate(NAMES)
    ),
    counters={"hits": 99, "misses_absent": 1, "lent": 3, "lent_milliseconds": 9000, "compile_milliseconds": 4000},
    host=m.HostReport(cores=2, memory_total=16 * 10**9, memory_available=9 * 10**9, resident=55 * 10**6, waiting=7),
    recent=tuple(
        m.OutcomeReport(
            at=1.7e9 - n, what=what, key="ef" * 32, model="/models/" + NAMES[n % 4], seconds=150.0 * n,
            detail="line one\x07 of the cause", program="serve.py", pid=n,
        )
        for n, what in enumerate(("compiled", "failed", "hit", "refused", "something-new") * 5)
    ),
)  # fmt: skip


def shown(width: int | None, height: int | None, top: m.Top = TOP, **more: str) -> list[str]:
    return topscreen.screen(top, now=1.7e9, width=width, height=height, glyphs=Glyphs(), **more)


@pytest.mark.parametrize("width", [20, 40, 79, 80, 99, 100, 160, 300])
@pytest.mark.parametrize("height", [2, 5, 10, 24, 60])
def test_a_screen_fits_its_terminal_and_obeys_nobody(width: int, height: int) -> None:
    lines = shown(width, height)
    assert len(lines) <= height
    assert max(map(cells, lines)) <= width
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("width", [80, 160])
def test_a_screen_says_what_matters(width: int) -> None:
    text = "\n".join(shown(width, 40))
    for word in ("serving for 2 h 10 min", "2 of 2 slots busy, 2 queued, 6 waiters, 1 being looked up", "9.0 GB of 16",
                 "99 hits of 100, 99.0 %; 1 miss: 1 absent", "5.0 s of compile time", "40%", "code generation",
                 "queued: position 2", "FAILED", "something-new"):  # fmt: skip
        assert word in text, word
    assert text.index("40%") < text.index("position 2"), "what runs comes first"
    assert "starts in" not in text, "what is left says it"
    assert ("serve.py" in text) == (width == 160)


def test_jobs_come_before_what_was() -> None:
    assert len(shown(80, 30)) == 30
    assert not any("LATELY" in line for line in shown(80, 10))
    assert shown(80, 6)[-1].startswith("and "), "a sign that something is missing"


def test_a_daemon_with_nothing_to_do() -> None:
    quiet = m.Top(version="0.1.0", pid=1, uptime=1, home="/h")
    assert shown(80, 24, quiet)[-1] == "no compile runs or waits"
    assert any("asked   nothing yet" in line for line in shown(80, 24, quiet))


def test_what_is_out_of_date_says_so() -> None:
    assert "no daemon runs: this is how it was" in shown(80, 24, trouble="no daemon runs: this is how it was")[0]


# --- in a real terminal ---------------------------------------------------------------------------------------------


class Screen:
    """``mlc-jit top`` in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(100, 30)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlc_jit", "top", "--interval", "0.2", *words],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing else can do it
        )  # fmt: skip
        self.seen = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> bytes:
        """What came since the last look."""
        found = b""
        while select.select([self.master], [], [], 0.05)[0]:
            found += os.read(self.master, 65536)
        self.seen += found
        return found

    def until(self, words: bytes) -> bytes:
        """What comes until these words do."""
        found = b""

        def there() -> bool:
            nonlocal found
            found += self.read()
            return words in found

        until(there, what=f"{words!r} on the screen")
        return found

    def end(self, key: bytes = b"\x03") -> int:
        os.write(self.master, key)
        until(lambda: self.read() is None or self.process.poll() is not None, what="its end")
        self.read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def top() -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def start(*words: str) -> Screen:
        opened.append(Screen(*words))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("key", [b"\x03", b"q"])
def test_the_terminal_is_given_back_as_it_was(daemon: Daemon, top: Callable[..., Screen], key: bytes) -> None:
    screen = top()
    screen.until(b"serving")
    assert not termios.tcgetattr(screen.slave)[3] & termios.ECHO
    assert screen.end(key) == 0
    assert termios.tcgetattr(screen.slave) == screen.before
    assert screen.seen.startswith(b"\x1b[?1049h")
    assert screen.seen.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l"), screen.seen[-80:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_also_when_it_is_ended(daemon: Daemon, top: Callable[..., Screen], number: int) -> None:
    screen = top()
    screen.until(b"serving")
    screen.process.send_signal(number)
    until(lambda: screen.read() is None or screen.process.poll() is not None, what="its end")
    screen.read()
    assert termios.tcgetattr(screen.slave) == screen.before
    assert screen.seen.endswith(b"\x1b[?1049l")


def test_a_stopped_view_gives_the_terminal_back_for_a_while(daemon: Daemon, top: Callable[..., Screen]) -> None:
    screen = top()
    screen.until(b"serving")
    os.kill(screen.process.pid, signal.SIGTSTP)
    screen.until(b"\x1b[?1049l")
    until(lambda: termios.tcgetattr(screen.slave) == screen.before)
    os.kill(screen.process.pid, signal.SIGCONT)
    screen.until(b"serving")
    assert screen.end() == 0


def test_a_daemon_that_goes_away_and_comes_back(
    start_daemon: Callable[..., Daemon], top: Callable[..., Screen], place: Place
) -> None:
    first = start_daemon()
    screen = top()
    screen.until(b"pid %d" % first.pid)
    first.stop()
    screen.until(b"no daemon runs: this is how it was")
    assert place.daemons() == [], "it starts none"
    second = start_daemon()
    screen.until(b"pid %d" % second.pid)
    assert screen.end() == 0


def test_it_waits_for_a_daemon_and_starts_none(top: Callable[..., Screen], place: Place) -> None:
    screen = top()
    screen.until(b"no daemon runs; waiting for one")
    time.sleep(0.5)
    assert place.daemons() == []
    assert screen.end() == 0


def test_it_follows_the_terminals_size(daemon: Daemon, top: Callable[..., Screen]) -> None:
    screen = top("--interval", "600")
    screen.until(b"serving")
    screen.resize(40, 10)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.until(b"no compile runs").decode())
    assert max(map(len, drawn.split("\r\n"))) <= 40
    assert screen.end() == 0


def test_elsewhere_than_on_a_terminal_one_screen_is_printed(
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]], daemon: Daemon, double: Double, client: Clients
) -> None:
    gate = double.gate()
    waiting = client.ask(double.model("waits", told={"wait_for": gate}))
    until(lambda: any(job.state == "running" for job in status().jobs))
    done = mlc_jit("top")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "waits" in done.stdout
    facts = json.loads(mlc_jit("top", "--json").stdout)
    assert [(job["state"], job["waiters"]) for job in facts["jobs"]] == [("running", 1)]
    assert facts["host"]["waiting"] == 1
    assert facts["host"]["resident"] > 10**7
    gate.touch()
    waiting.path()
    client.ask(double.model("waits", told={"wait_for": gate})).path()
    facts = json.loads(mlc_jit("top", "--json").stdout)
    assert [each["what"] for each in facts["recent"]] == ["hit", "compiled"] or facts["recent"][-1][
        "what"
    ] == "compiled"
    assert facts["recent"][-1]["detail"] == "the cache is empty"
    assert facts["counters"]["lent"] == 2


def test_without_a_daemon_there_is_nothing_to_print(
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]], place: Place
) -> None:
    done = mlc_jit("top")
    assert (done.returncode, done.stdout) == (3, "")
    assert "No mlc-jitd daemon is running" in done.stderr
    assert place.daemons() == []
