"""The socket against clients that mean well and clients that don't; real sockets, one process."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zmq

from mlc_jit import channel as wire
from mlc_jit import messages as m
from mlc_jit import vigil
from mlc_jit.errors import AccessRefusedError, DaemonUnavailableError, StoreUnwritableError
from mlc_jit.locations import Locations, locate
from mlc_jitd.door import Door
from mlc_jitd.server import MAX_UNREAD, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlc_jitd.peers import Peer


def until(done: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for a state; what it was when it came."""
    deadline = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)
    return value


@pytest.fixture
def runtime() -> Iterator[Path]:
    """Short, since a socket's path may have 107 bytes; every folder above it can be entered by all."""
    with tempfile.TemporaryDirectory(prefix="jitd-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def places(runtime: Path) -> Locations:
    return locate({"MLC_LLM_HOME": str(runtime / "home"), "MLC_JITD_RUNTIME_DIR": str(runtime / "run")})


@pytest.fixture
def door(places: Locations) -> Iterator[Door]:
    door = Door(places)
    yield door
    door.retire()


class Bench:
    """A server whose handler is a function of the test, by default one that greets and else says nothing."""

    def __init__(self, door: Door, **named: Any) -> None:
        self.heard: list[tuple[Peer, m.Message]] = []
        self.lost: list[bytes] = []
        self.answer: Callable[[Peer, m.Message], m.Message | None] = self.greet
        door.lock()
        self.server = Server(door.bind(), self.handle, gone=self.lost.append, **named)
        self.path = door.places.socket

    def handle(self, peer: Peer, message: m.Message) -> m.Message | None:
        self.heard.append((peer, message))
        return self.answer(peer, message)

    @staticmethod
    def greet(_peer: Peer, message: m.Message) -> m.Message | None:
        return m.Welcome(id=message.id, protocol=m.PROTOCOL) if isinstance(message, m.Hello) else None

    def count(self, name: str) -> int:
        return self.server.counters[name]


@contextmanager
def serving(door: Door, **named: Any) -> Iterator[Bench]:
    bench = Bench(door, **named)
    bench.server.start()
    try:
        yield bench
        assert bench.server.alive() or bench.server._stop.is_set(), "the server's thread died"
    finally:
        bench.server.close()


@pytest.fixture
def bench(door: Door) -> Iterator[Bench]:
    with serving(door) as bench:
        yield bench


@pytest.fixture
def dealer(bench: Bench) -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Makes raw clients."""
    context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int = zmq.DEALER, identity: bytes = b"", **options: int) -> zmq.Socket[bytes]:
        sock = context.socket(kind)
        made.append(sock)
        sock.linger = 0
        if identity:
            sock.setsockopt(zmq.ROUTING_ID, identity)
        for name, value in options.items():
            sock.setsockopt(getattr(zmq, name), value)
        sock.connect(f"ipc://{bench.path}")
        return sock

    yield make
    for sock in made:
        sock.close(0)
    context.term()


def reply(sock: zmq.Socket[bytes], seconds: float = 10.0) -> m.Message:
    assert sock.poll(seconds * 1000), "no reply"
    frames = sock.recv_multipart()
    return m.decode(frames[-1], m.REPLIES, strict=True)


def hello(sock: zmq.Socket[bytes], id_: int = 77) -> None:
    """The daemon still serves this client."""
    sock.send(m.encode(m.Hello(id=id_)))
    while (said := reply(sock)).id != id_:
        assert not isinstance(said, m.Welcome)
    assert isinstance(said, m.Welcome)


def come_and_go(path: Path, times: int, seconds: int = 5) -> int:
    """Connect, say nothing and leave; how often that went well until nobody was let in for so many seconds."""
    for done in range(times):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", seconds, 0))
            try:
                raw.connect(str(path))
            except BlockingIOError:  # as many as the kernel keeps wait already
                return done
    return times


# --- those who mean well --------------------------------------------------------------------------------------------


def test_a_question_is_answered_under_its_id(bench: Bench, dealer: Any):
    hello(dealer(), 5)
    ((peer, _),) = bench.heard
    assert (peer.uid, peer.gid) == (os.getuid(), os.getgid())
    assert peer.pid in (0, os.getpid())


def test_an_answer_may_come_later_and_from_any_thread(bench: Bench, dealer: Any):
    sock = dealer()
    sock.send(m.encode(m.JitRequest(id=3, config=b"{}", device="cpu", python="p")))
    peer, _ = until(lambda: bench.heard)[0]
    assert bench.server.waiting() == 1
    threads = [
        threading.Thread(
            target=lambda n=n: bench.server.send(peer.identity, m.Progress(id=3, stage="s", detail=str(n)))
        )
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.server.send(peer.identity, m.Result(id=3, path="/p", key="ab"))
    told = []
    while not isinstance(said := reply(sock), m.Result):
        told.append(said)
    assert len([each for each in told if isinstance(each, m.Progress)]) == 20
    assert bench.server.waiting() == 0


def test_many_clients_hear_their_own_answers_only(bench: Bench, dealer: Any):
    bench.answer = lambda _peer, message: m.Cancelled(id=message.id, key=message.key)  # type: ignore[attr-defined]
    socks = [dealer() for _ in range(20)]
    for turn in range(10):
        for number, sock in enumerate(socks):
            sock.send(m.encode(m.Cancel(id=turn + 1, key=f"{number}-{turn}")))
    for number, sock in enumerate(socks):
        for turn in range(10):
            assert reply(sock) == m.Cancelled(id=turn + 1, key=f"{number}-{turn}")


def test_the_client_and_the_server_understand_each_other(bench: Bench):
    bench.answer = lambda _peer, message: (
        m.Stopping(id=message.id, pid=1) if isinstance(message, m.StopRequest) else None
    )
    answer = next(wire.query(bench.path, lambda id_: m.StopRequest(id=id_)))
    assert answer == m.Stopping(id=answer.id, pid=1)


def test_heartbeats_come_as_long_as_something_is_waited_for(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(m, "HEARTBEAT_SECONDS", 0.02)
    with serving(door) as bench, zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{bench.path}")
        sock.send(m.encode(m.JitRequest(id=9, config=b"{}", device="cpu", python="p")))
        for _ in range(5):
            assert reply(sock) == m.Heartbeat()
        peer, _ = bench.heard[0]
        bench.server.send(peer.identity, m.Failure(id=9, kind="error", message="no"))
        while not isinstance(reply(sock), m.Failure):
            pass
        assert bench.server.waiting() == 0
        hello(sock)
        assert not sock.poll(100), "nothing more to be told"


def test_heartbeats_come_while_the_engine_is_busy_and_end_when_the_asker_leaves(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(m, "HEARTBEAT_SECONDS", 0.02)
    with serving(door) as bench, zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{bench.path}")
        sock.send(m.encode(m.JitRequest(id=9, config=b"{}", device="cpu", python="p")))
        assert reply(sock) == m.Heartbeat()
        sock.send(m.encode(m.Leave(id=9)))
        until(lambda: bench.server.waiting() == 0)
        hello(sock)


@pytest.mark.parametrize("request_", [m.StatusRequest(id=9), m.ListRequest(id=9)])
def test_heartbeats_come_until_a_report_is_whole(request_: m.Message, door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(m, "HEARTBEAT_SECONDS", 0.02)
    with serving(door) as bench, zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{bench.path}")
        sock.send(m.encode(request_))
        assert reply(sock) == m.Heartbeat()
        peer, _ = bench.heard[0]
        bench.server.send(peer.identity, m.Listing(id=9, entries=(), more=True))
        while not isinstance(reply(sock), m.Listing):
            pass
        assert reply(sock) == m.Heartbeat(), "a part is not the end"
        last: m.Message = m.Listing(id=9, entries=(), more=False)
        if isinstance(request_, m.StatusRequest):
            last = m.Status(id=9, version="1", pid=1, uptime=0.0, home="/h", socket="/s", log_path="")
        bench.server.send(peer.identity, last)
        until(lambda: bench.server.waiting() == 0)


def test_the_first_heartbeat_comes_within_one_interval(bench: Bench, dealer: Any):
    sock = dealer()
    hello(sock)
    began = time.monotonic()
    sock.send(m.encode(m.JitRequest(id=9, config=b"{}", device="cpu", python="p")))
    assert reply(sock) == m.Heartbeat()
    assert time.monotonic() - began < m.HEARTBEAT_SECONDS + 1


def test_a_connection_that_waited_and_went_is_told_once(bench: Bench, dealer: Any):
    sock = dealer(identity=b"leaver")
    sock.send(m.encode(m.JitRequest(id=9, config=b"{}", device="cpu", python="p")))
    sock.send(m.encode(m.JitRequest(id=10, config=b"{}", device="cpu", python="p")))
    until(lambda: bench.server.waiting() == 2)
    sock.close(0)

    def told() -> bool:
        bench.server.send(b"leaver", m.Progress(id=9, stage="s"))
        return bool(bench.lost)

    until(told)
    assert bench.lost == [b"leaver"]
    assert bench.server.waiting() == 0
    assert bench.count("lost_waiters") == 1
    hello(dealer())


def test_a_heartbeat_notices_who_is_gone(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(m, "HEARTBEAT_SECONDS", 0.02)
    with serving(door) as bench, zmq.Context() as context:
        sock = context.socket(zmq.DEALER)
        sock.connect(f"ipc://{bench.path}")
        sock.send(m.encode(m.JitRequest(id=9, config=b"{}", device="cpu", python="p")))
        until(lambda: bench.server.waiting() == 1)
        sock.close(0)
        until(lambda: bench.lost)
        assert len(bench.lost) == 1


def test_a_reply_to_a_stranger_is_no_error(bench: Bench, dealer: Any):
    bench.server.send(b"nobody", m.Heartbeat())
    hello(dealer())
    assert bench.lost == []


def test_wake_ups_are_not_lost(bench: Bench, dealer: Any):
    """Each reply is sent alone, when the server has gone to sleep after the one before."""
    sock = dealer(identity=b"patient")
    hello(sock)
    for number in range(300):
        bench.server.send(b"patient", m.Progress(id=number, stage="s"))
        assert reply(sock, 5).id == number


def test_the_tick_comes_and_may_fail(door: Door):
    ticks: list[int] = []

    def tick() -> float:
        ticks.append(1)
        raise ValueError("no")

    with serving(door, tick=tick) as bench:
        until(lambda: len(ticks) >= 2)
        assert bench.count("handler_errors") >= 2


# --- those who don't ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1garbage"],
        [b"", b""],
        [b"", m.encode(m.Hello(id=1))],
        [m.encode(m.Hello(id=1)), b""],
        [m.encode(m.Hello(id=1))] * 3,
        [b"x"] * 1000,
        [msgpack.packb([1, 2])],
        [msgpack.packb({"verb": "hello", "id": -1})],
        [msgpack.packb({"id": 1})],
        [b"\x91" * 100_000],
    ],
    ids=range(11),
)
def test_broken_frames_are_counted_and_dropped(bench: Bench, dealer: Any, frames: list[bytes]):
    sock = dealer()
    sock.send_multipart(frames)
    hello(sock)
    assert bench.count("broken_frames") == 1
    assert [type(message) for _, message in bench.heard] == [m.Hello]


def test_a_request_socket_is_not_our_dialect(bench: Bench, dealer: Any):
    sock = dealer(zmq.REQ)
    sock.send(m.encode(m.Hello(id=1)))
    until(lambda: bench.count("broken_frames") == 1)
    hello(dealer())


def test_bytes_that_are_no_zeromq(bench: Bench, dealer: Any):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(bench.path))
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
        hello(dealer())


def test_a_client_that_connects_and_says_nothing(bench: Bench, dealer: Any):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(bench.path))
        hello(dealer())


def test_thousands_who_come_and_go_while_nobody_counts_them_keep_nobody_waiting(bench: Bench, dealer: Any):
    assert come_and_go(bench.path, 5000) == 5000
    hello(dealer())


def test_a_message_that_is_too_long_ends_its_connection_and_nobody_elses(bench: Bench, dealer: Any):
    good, bad = dealer(), dealer(identity=b"bad", RECONNECT_IVL=-1)
    bad.send(m.encode(m.JitRequest(id=1, config=b"{}", device="cpu", python="p")))
    until(lambda: bench.server.waiting() == 1)
    bad.send(m.encode(m.JitRequest(id=2, config=b"x" * m.MAX_MESSAGE_BYTES, device="cpu", python="p")))

    def dropped() -> bool:
        bench.server.send(b"bad", m.Progress(id=1, stage="s"))
        return bool(bench.lost)

    until(dropped)
    hello(good)
    assert [message.id for _, message in bench.heard] == [1, 77]


def test_the_longest_message_is_served(bench: Bench, dealer: Any):
    sock = dealer()
    fixed = len(m.encode(m.JitRequest(id=1, config=b"x" * 70_000, device="cpu", python="p"))) - 70_000
    message = m.JitRequest(id=1, config=b"x" * (m.MAX_MESSAGE_BYTES - fixed), device="cpu", python="p")
    assert len(m.encode(message)) == m.MAX_MESSAGE_BYTES
    sock.send(m.encode(message))
    hello(sock)
    assert bench.heard[0][1] == message


def test_an_unknown_verb_is_unsupported(bench: Bench, dealer: Any):
    sock = dealer()
    sock.send(msgpack.packb({"verb": "teleport", "id": 4}))
    assert reply(sock) == m.Unsupported(id=4, asked="teleport", features=m.FEATURES)
    assert bench.heard == []


def test_a_reply_sent_as_a_request_is_unsupported(bench: Bench, dealer: Any):
    sock = dealer()
    sock.send(m.encode(m.Result(id=4, path="/etc/passwd", key="ab")))
    assert isinstance(reply(sock), m.Unsupported)


def test_invalid_fields_are_an_error_under_the_right_id(bench: Bench, dealer: Any):
    sock = dealer()
    sock.send(msgpack.packb({"verb": "jit", "id": 6, "config": "text", "device": "cpu", "python": "p"}))
    said = reply(sock)
    assert isinstance(said, m.Failure)
    assert (said.id, said.kind) == (6, "protocol")
    assert "config" in said.message
    assert bench.server.waiting() == 0


def test_routing_ids_of_the_clients_choice(bench: Bench, dealer: Any):
    for identity in (b"x", b"\xff" * 255, b"nobody\x01", "ü".encode()):
        hello(dealer(identity=identity))
    assert [peer.identity for peer, _ in bench.heard] == [b"x", b"\xff" * 255, b"nobody\x01", "ü".encode()]


def test_a_second_client_of_the_same_routing_id_does_not_get_the_firsts_answers(bench: Bench, dealer: Any):
    first = dealer(identity=b"same")
    first.send(m.encode(m.JitRequest(id=1, config=b"{}", device="cpu", python="p")))
    until(lambda: bench.server.waiting() == 1)
    second = dealer(identity=b"same")
    second.send(m.encode(m.Hello(id=2)))
    bench.server.send(b"same", m.Result(id=1, path="/p", key="ab"))
    while isinstance(said := reply(first), m.Heartbeat):
        pass
    assert said == m.Result(id=1, path="/p", key="ab")
    assert not second.poll(50)
    hello(dealer())


def test_a_peer_that_never_reads_costs_a_bounded_number_of_replies(bench: Bench, dealer: Any):
    deaf = dealer(identity=b"deaf", RCVHWM=1, RCVBUF=4096)
    deaf.send(m.encode(m.JitRequest(id=1, config=b"{}", device="cpu", python="p")))
    until(lambda: bench.server.waiting() == 1)
    text = "x" * 10_000
    for _ in range(MAX_UNREAD * 2):
        bench.server.send(b"deaf", m.Progress(id=1, stage="s", detail=text))
    until(lambda: bench.count("dropped_replies") > 0)
    hello(dealer())
    assert bench.lost == []


def test_a_handler_that_fails_is_an_answer_too(bench: Bench, dealer: Any):
    def fail(_peer: Peer, _message: m.Message) -> m.Message:
        raise ZeroDivisionError("by zero")

    sock = dealer()
    bench.answer = fail
    sock.send(m.encode(m.JitRequest(id=8, config=b"{}", device="cpu", python="p")))
    said = reply(sock)
    assert isinstance(said, m.Failure)
    assert (said.id, said.kind, said.reason) == (8, "error", "internal")
    assert "ZeroDivisionError: by zero" in said.message
    assert bench.server.waiting() == 0
    bench.answer = bench.greet
    hello(sock)


@pytest.mark.parametrize("later", [True, False])
def test_a_reply_that_can_not_be_encoded_is_an_answer_too(bench: Bench, dealer: Any, later: bool):
    broken = m.Listing(id=8, entries=({1j},))  # type: ignore[arg-type]
    sock = dealer(identity=b"c")
    if not later:
        bench.answer = lambda _peer, _message: broken
    sock.send(m.encode(m.ListRequest(id=8)))
    until(lambda: bench.heard)
    if later:
        bench.server.send(b"c", broken)
    said = reply(sock)
    assert isinstance(said, m.Failure)
    assert (said.id, said.reason) == (8, "internal")
    bench.answer = bench.greet
    hello(sock)


def test_forged_credentials_in_a_message_have_no_effect(bench: Bench, dealer: Any):
    sock = dealer()
    sock.send(msgpack.packb({"verb": "hello", "id": 1, "uid": 4711, "gid": 4711, "pid": 1, "Peer-Address": "x:0:0:1"}))
    reply(sock)
    ((peer, _),) = bench.heard
    assert (peer.uid, peer.gid) == (os.getuid(), os.getgid())


def test_forged_metadata_of_the_connection_has_no_effect(bench: Bench):
    with zmq.Context() as context, context.socket(zmq.DEALER) as forger:
        forger.linger = 0
        forger.setsockopt(zmq.METADATA, b"X-Peer-Address:x:4711:4711:1")
        forger.connect(f"ipc://{bench.path}")
        hello(forger)
    assert bench.heard[0][0].uid == os.getuid()


def test_a_uid_that_is_not_allowed_is_refused(door: Door):
    with serving(door, allow=frozenset({os.getuid() + 1})) as bench:
        with pytest.raises(AccessRefusedError, match=f"uid {os.getuid()}"):
            list(wire.query(bench.path, lambda id_: m.StatusRequest(id=id_)))
        assert bench.heard == []
        assert bench.count("refused_uid") >= 1


CHILD = """
import os, sys, zmq
os.setgid(65534); os.setuid(65534)
sock = zmq.Context().socket(zmq.DEALER)
sock.linger = 0
sock.connect("ipc://" + sys.argv[1])
sock.send(bytes.fromhex(sys.argv[2]))
assert sock.poll(10000), "no reply"
print(sock.recv().hex())
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("allowed", [True, False])
def test_another_user_is_known_by_the_kernel(door: Door, runtime: Path, allowed: bool):
    with serving(door, allow=frozenset({0, 65534} if allowed else {0})) as bench:
        for path in (runtime, runtime / "run", bench.path):
            path.chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(bench.path), m.encode(m.Hello(id=3)).hex()],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = m.decode(bytes.fromhex(done.stdout), m.REPLIES, strict=True)
        if allowed:
            assert said == m.Welcome(id=3, protocol=m.PROTOCOL)
            assert (bench.heard[0][0].uid, bench.heard[0][0].gid) == (65534, 65534)
        else:
            assert isinstance(said, m.Failure)
            assert (said.kind, said.id) == ("access-refused", 0)
            assert bench.heard == []


# --- closing --------------------------------------------------------------------------------------------------------


def test_closing_sends_what_is_queued(door: Door):
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        with serving(door) as bench:
            sock.setsockopt(zmq.ROUTING_ID, b"last")
            sock.connect(f"ipc://{bench.path}")
            hello(sock)
            for number in range(50):
                bench.server.send(b"last", m.Progress(id=number, stage="s"))
        assert [reply(sock).id for _ in range(50)] == list(range(50))


def test_a_closed_server_may_be_spoken_to_and_closed_again(door: Door):
    with serving(door) as bench:
        pass
    bench.server.send(b"x", m.Heartbeat())
    bench.server.close()
    assert not bench.server.alive()


class Troubled:
    """A memory that can't look at what it remembers."""

    def turn(self) -> None:
        """Nothing."""

    def rest(self) -> None:
        raise RuntimeError("no such device")

    def reply(self, _peer: Peer, _frame: bytes) -> bytes | None:
        return None

    def learn(self, _peer: Peer, _frame: bytes, _request: m.JitRequest) -> None:
        """Nothing."""


def test_a_look_behind_an_answer_that_fails_ends_nothing(door: Door):
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as sock, serving(door, memory=Troubled()) as bench:
        sock.linger = 0
        sock.connect(f"ipc://{bench.path}")
        hello(sock, 1)
        hello(sock, 2)
        until(lambda: bench.count("handler_errors") > 0)


def test_replies_of_other_threads_come_while_somebody_asks_without_a_pause(bench: Bench, dealer: Any):
    """Who asks again at once is answered without a poll, for a moment; never for long."""
    other, asking = dealer(), dealer()
    hello(other)
    peer = bench.heard[0][0]
    said: list[float] = []

    def say() -> None:
        said.append(time.monotonic())
        bench.server.send(peer.identity, m.Progress(id=5, stage="s"))

    thread = threading.Timer(0.2, say)
    thread.start()
    came = 0.0
    begun = time.monotonic()
    while not came and time.monotonic() - begun < 5:
        hello(asking)
        if other.poll(0):
            assert reply(other) == m.Progress(id=5, stage="s")
            came = time.monotonic()
    thread.join()
    assert said
    assert came - said[0] < 0.5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_dies_says_so_at_once(door: Door, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()
    bench = Bench(door, ended=ended.set)
    monkeypatch.setattr(bench.server, "_flush", None)
    assert bench.server.alive()
    bench.server.start()
    bench.server.send(b"x", m.Heartbeat())  # it wakes
    assert ended.wait(5)
    assert not bench.server.alive()
    bench.server.close()


def test_a_server_that_never_started_can_be_closed(door: Door):
    Bench(door).server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_nobody_reads_for_any_more_can_be_closed(door: Door, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()
    bench = Bench(door, ended=ended.set)
    monkeypatch.setattr(bench.server, "_flush", None)
    bench.server.start()
    bench.server.send(b"x", m.Heartbeat())
    assert ended.wait(5)
    assert come_and_go(bench.path, 5000, seconds=1) < 5000  # ZeroMQ's own thread waits for who would read its reports
    closing = threading.Thread(target=bench.server.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


# --- the door -------------------------------------------------------------------------------------------------------


def test_one_daemon_per_home(door: Door, places: Locations):
    door.lock()
    with pytest.raises(DaemonUnavailableError, match=f"pid {os.getpid()}") as caught:
        Door(places).lock()
    assert caught.value.reason == "running"
    door.retire()
    second = Door(places)
    second.lock()
    second.retire()


def test_the_socket_and_the_lock_are_private(door: Door, places: Locations):
    old = os.umask(0)
    try:
        door.lock()
        door.bind().close()
    finally:
        os.umask(old)
    assert places.socket.stat().st_mode & 0o777 == 0o600
    assert places.lock.stat().st_mode & 0o777 == 0o600
    assert places.runtime.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in places.runtime.iterdir()} == {places.socket.name, places.lock.name}
    assert places.lock.read_text() == f"{os.getpid()}\n"


def test_what_a_killed_daemon_left_is_replaced(door: Door, places: Locations):
    places.runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(places.socket))
    places.socket.with_name("~" + places.socket.name[1:]).touch()
    assert wire.reach(places.socket) == "down"
    with serving(door) as bench:
        assert wire.reach(bench.path) == "up"


def test_a_stolen_path_is_noticed_and_left_to_the_thief(door: Door, places: Locations):
    with serving(door):
        assert door.still_ours()
        places.socket.unlink()
        assert not door.still_ours()
        with socket.socket(socket.AF_UNIX) as thief:
            thief.bind(str(places.socket))
            assert not door.still_ours()
            door.retire()
            assert places.socket.exists()


def test_looking_after_the_door_keeps_it_young(door: Door, places: Locations):
    door.lock()
    door.bind().close()
    for path in (places.lock, places.socket):
        os.utime(path, (1.0, 1.0))
    assert door.still_ours()
    assert min(places.lock.stat().st_mtime, places.socket.stat().st_mtime) > 1e9


def test_a_successor_binds_at_once_while_open_connections_live_on(door: Door, places: Locations, bench: Bench):
    old = wire.Channel(bench.path)
    successor = Door(places)
    try:
        id_ = old.next_id()
        old.send(m.JitRequest(id=id_, config=b"{}", device="cpu", python="p"))
        (peer, _), *_ = list(until(lambda: bench.heard[1:]))
        door.retire()
        assert not places.socket.exists()
        assert wire.reach(places.socket) == "down"
        assert not old.fresh()
        with serving(successor):
            assert wire.reach(places.socket) == "up"
            bench.server.send(peer.identity, m.Result(id=id_, path="/old", key="ab"))
            assert next(old.replies(id_, strict=True)) == m.Result(id=id_, path="/old", key="ab")
            bench.server.close()
            door.retire()
            assert successor.still_ours(), "the old daemon's end leaves the path alone"
    finally:
        old.close()
        successor.retire()


def test_retiring_twice_or_without_a_door_is_nothing(places: Locations):
    door = Door(places)
    assert not door.still_ours()
    door.retire()
    door.lock()
    door.retire()
    door.retire()
    assert not places.socket.exists()


def test_the_longest_path_that_the_system_allows(runtime: Path):
    path = runtime / ("d" * (107 - len(str(runtime)) - len("//s.sock"))) / "s.sock"
    path.parent.mkdir()
    assert len(str(path)) == 107
    places = locate(
        {
            "MLC_LLM_HOME": str(runtime / "home"),
            "MLC_JITD_RUNTIME_DIR": str(runtime / "run"),
            "MLC_JITD_SOCKET": str(path),
        }
    )
    door = Door(places)
    try:
        with serving(door) as bench:
            assert wire.reach(bench.path) == "up"
    finally:
        door.retire()


@pytest.mark.parametrize("name", ["s", "~", "~s"])
def test_a_socket_may_have_any_name(runtime: Path, name: str):
    env = {"MLC_LLM_HOME": str(runtime / "home"), "MLC_JITD_RUNTIME_DIR": str(runtime / "run")}
    door = Door(locate({**env, "MLC_JITD_SOCKET": str(runtime / name)}))
    door.lock()
    door.bind().close()
    assert door.still_ours()
    door.retire()
    assert not (runtime / name).exists()


def test_a_place_where_no_socket_can_be_is_a_clear_error(runtime: Path):
    env = {"MLC_LLM_HOME": str(runtime / "home"), "MLC_JITD_RUNTIME_DIR": str(runtime / "run")}
    door = Door(locate({**env, "MLC_JITD_SOCKET": str(runtime / "nowhere" / "s")}))
    door.lock()
    with pytest.raises(DaemonUnavailableError, match="can't be made") as caught:
        door.bind()
    assert caught.value.reason == "socket"
    door.retire()


def test_a_lock_that_can_not_be_is_a_clear_error(places: Locations):
    places.runtime.mkdir(mode=0o700)
    places.lock.mkdir()
    with pytest.raises(StoreUnwritableError, match="lock"):
        Door(places).lock()


def test_a_full_disk_does_not_keep_the_daemon_from_serving(
    door: Door, places: Locations, monkeypatch: pytest.MonkeyPatch
):
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    door.lock()
    with pytest.raises(DaemonUnavailableError, match="pid unknown"):
        Door(places).lock()


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_an_open_runtime_folder_is_refused(places: Locations, mode: int):
    places.runtime.mkdir()
    places.runtime.chmod(mode)
    with pytest.raises(AccessRefusedError, match="chmod 700"):
        Door(places).lock()


def test_a_daemon_that_was_replaced_unnoticed_is_asked_again(
    places: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "PROBE_SECONDS", 0.1)
    old = Door(places)
    with serving(old) as first:
        channel = wire.Channel(places.socket)
        request = m.JitRequest(id=channel.next_id(), config=b"{}", device="cpu", python="python")
        channel.send(request)
        until(lambda: any(isinstance(message, m.JitRequest) for _, message in first.heard))
    old.retire()
    new = Door(places)
    with serving(new) as second:
        second.answer = lambda _peer, message: (
            m.Result(id=message.id, path="/lib.so", key="k") if isinstance(message, m.JitRequest) else None
        )
        try:
            reply = next(channel.replies(request.id, silence=10, remind=request))
        finally:
            channel.close()
    new.retire()
    assert isinstance(reply, m.Result)
    assert reply.path == "/lib.so"
