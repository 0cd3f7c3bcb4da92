"""Risk: a client that means harm takes the daemon from the others: they wait, or it grows until it is killed.

The hostile one is another real uid that may use the daemon. What others notice in time is `benchmarks/hostile.py`'s;
here nothing is timed: their hits are answered, memory stays bounded, and the daemon says what it did.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import until
from harness.users import Host, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

pytestmark = [
    pytest.mark.skipif(
        os.getuid() != 0 or not sys.platform.startswith("linux"), reason="only root on Linux can become several users"
    ),
    pytest.mark.timeout(60),
]

ALICE, EVE = 54321, 54322
GROWTH = 96 << 20
"""What the daemon may grow by, in bytes: far less than what is sent."""

GROWTH_OF_FUSE = 1 << 30

DEALER = """
def dealer():
    s = zmq.Context.instance().socket(zmq.DEALER)
    s.setsockopt(zmq.LINGER, 0)
    s.setsockopt(zmq.SNDTIMEO, 200)
    s.setsockopt(zmq.RECONNECT_IVL, 20)
    s.connect(f"ipc://{locations.locate().socket}")
    return s
def post(s, payload):
    try:
        s.send(payload)
    except zmq.Again:
        return False
    return True
"""

MALFORMED = (
    DEALER
    + """
import random, msgpack
random.seed(1)
kinds = [
    lambda n: random.randbytes(random.randrange(200)),
    lambda n: msgpack.packb({"verb": "jit", "id": n}),
    lambda n: msgpack.packb({"verb": "jit", "id": n, "config": [1], "device": {}, "python": None}),
    lambda n: msgpack.packb({"verb": "no-such-verb", "id": n}),
    lambda n: msgpack.packb([1, 2, 3]),
    lambda n: msgpack.packb({"verb": "status", "id": -n - 1}),
    lambda n: msgpack.packb("x" * 60_000),
    lambda n: b"\\x91" * 2000,
    lambda n: b"\\xdf\\xff\\xff\\xff\\xff",
]
sent = 0
s = dealer()
for n in range(10_000):
    if not post(s, kinds[n % len(kinds)](n)):
        s.close(0)
        s = dealer()
    sent += 1
for n in range(50):  # too long: ZeroMQ itself ends the connection
    post(s, b"x" * (300 << 10))
print(json.dumps(sent))
"""
)

STATUSES = (
    DEALER
    + """
s = dealer()
for n in range(20_000):
    if not post(s, m.encode(m.StatusRequest(id=n) if n % 2 else m.ListRequest(id=n))):
        break
print(json.dumps(n))
"""
)

ENDLESS = """
greeting = b"\\xff" + bytes(8) + b"\\x7f\\3\\0NULL" + bytes(16) + bytes(32)
ready = b"\\5READY\\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
part = b"\\3" + struct.pack(">Q", 200 << 10) + bytes(200 << 10)
sent = 0
s = socket.socket(socket.AF_UNIX)
s.connect(str(locations.locate().socket))
s.settimeout(10)
s.sendall(greeting + b"\\4" + bytes([len(ready)]) + ready)
said = b""
while b"Socket-Type" not in said:  # what comes before the handshake is over ends the connection
    said += s.recv(4096)
try:
    while sent < 4 << 30:  # one message that has no end
        s.sendall(part)
        sent += len(part)
        if len(part) * 2048 < sent: time.sleep(0.01)
except (BrokenPipeError, ConnectionResetError):
    print(json.dumps(sent))
"""

CONNECTS = """
given_up = time.monotonic() + 6
n = 0
while time.monotonic() < given_up:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(str(locations.locate().socket))
        n += 1
    except OSError:
        pass
    s.close()
print(json.dumps(n))
"""

SILENT = """
held = []
ended = 0
for n in range(400):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.settimeout(2)
        s.connect(str(locations.locate().socket))
        if n % 2: s.sendall(b"\\xff\\0\\0\\0")
    except OSError:
        pass
    held.append(s)
time.sleep(0.5)
for s in held:
    s.settimeout(0)
    try:
        while (said := s.recv(4096)): pass
        ended += 1
    except BlockingIOError: pass
    except OSError: ended += 1
print(json.dumps(ended), flush=True)
sys.stdout.close()
time.sleep(20)
"""


@pytest.fixture
def host(place: Place, double: Double, start_daemon: Callable[..., Daemon]) -> Iterator[Host]:
    folder = place.folder("s")
    folder.chmod(0o755)
    found = Host(place, double, start_daemon, folder / "s")
    yield found
    found.end()


@pytest.fixture
def served(host: Host) -> tuple[Daemon, User, User]:
    """A daemon, one who had a library of it, and one who means harm."""
    daemon = host.serve(users=[str(ALICE), str(EVE)], user_connections=50)
    alice, eve = host.user(ALICE), host.user(EVE)
    assert alice.ask(alice.model()).path(40)
    return daemon, alice, eve


HITS = """
paths = {jit(given["model"], {}, "cpu").model_lib_path for _ in range(300)}
print(json.dumps(len(paths)))
"""


def hits_are_answered(alice: User) -> None:
    assert alice.code(HITS, model=alice.home / "tiny").answer(40) == 1


def counted(alice: User, name: str) -> int:
    code = """
for reply in channel.query(locations.locate().socket, lambda id_: m.StatusRequest(id=id_)):
    print(json.dumps(reply.counters.get(given["name"], 0)))
    break
"""
    return int(alice.code(code, name=name).answer(40))


@pytest.mark.parametrize(
    ("what", "least"),
    [(MALFORMED, 10_000), (STATUSES, 1), (ENDLESS, 1), (CONNECTS, 50)],
    ids=["malformed", "statuses", "endless", "connects"],
)
def test_a_flood(served, what, least):
    daemon, alice, eve = served
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    flood = eve.code(what)
    hits_are_answered(alice)
    assert flood.answer(50) >= least
    hits_are_answered(alice)
    assert daemon.process.poll() is None
    assert process.memory_info().rss - before < (GROWTH if what is not ENDLESS else GROWTH_OF_FUSE)
    until(lambda: counted(alice, "hung_up") > 0, what="whoever floods to be disconnected")
    assert (counted(alice, "fuse") > 0) == (what is ENDLESS)


def test_silent_and_slow_connections(served):
    daemon, alice, eve = served
    before = psutil.Process(daemon.pid).num_fds()
    silent = eve.code(SILENT)
    ended = int(silent.process.stdout.readline())
    assert ended >= 300, "beyond `user_connections` nobody is held"
    assert psutil.Process(daemon.pid).num_fds() - before < 100
    hits_are_answered(alice)
    silent.kill()


def test_who_floods_is_back_once_it_behaves(served):
    _, _, eve = served
    eve.code(MALFORMED).answer(50)
    assert eve.ask(eve.model()).path(40)
