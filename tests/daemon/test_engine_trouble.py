"""An engine on a host in trouble: nobody waits for ever, and it can be ended."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_jit import messages as m
from mlc_jit.errors import StoreError
from mlc_jitd.broker import Broker
from mlc_jitd.engine import Engine
from mlc_jitd.gauge import Gauge
from mlc_jitd.likeness import Likeness
from mlc_jitd.peers import Peer
from mlc_jitd.schedule.host import GIB, Capacity
from mlc_jitd.schedule.queue import Queue
from mlc_jitd.store import Missing
from mlc_jitd.work import LookUp

PEER = Peer(b"\0one", 0, 0, 1)
IDENTITY: Any = SimpleNamespace(
    key="k" * 64, parts=(), toolchain=SimpleNamespace(name="tvm"), model_type="llama", quantization="q0f32"
)


class Line:
    """Where replies go."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.sent: list[m.Message] = []
        self.living = True

    def send(self, _identity: bytes, message: m.Message) -> None:
        self.sent.append(message)

    def alive(self) -> bool:
        return self.living


def until(done):
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def look_up():
    return lambda _request: LookUp(IDENTITY, Missing("absent", "nothing"))


@pytest.fixture
def engine(line, look_up, monkeypatch):
    store = SimpleNamespace(unchanged=None, layout=SimpleNamespace(library=None), counters=dict)
    work: Any = SimpleNamespace(
        compiler=SimpleNamespace(acceleration=None, acceleration_for=lambda _identity, **_: None),
        store=store,
        identifier=SimpleNamespace(recheck=None),
        look_up=look_up,
        counters=dict,
    )
    host = Capacity(cores=2, memory_total=8 * GIB, memory_available=8 * GIB)
    made = Engine(
        work,
        Broker(),
        Queue(),
        gauge=Gauge(lambda: host),
        likeness=Likeness(),
        places=SimpleNamespace(home="h", socket="s"),  # type: ignore[arg-type]
        log_path="",
        drain_seconds=5,
    )
    made.open(line)
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.drain(now=True)
    thread.join(10)
    assert not thread.is_alive()


def ask(engine):
    assert engine.handle(PEER, m.JitRequest(id=1, config=b"{}", device="cpu", python="python")) is None


def test_a_job_that_gets_no_thread_fails_like_any_other(engine, line, monkeypatch):
    class Thread(threading.Thread):
        def start(self) -> None:
            if self.name.startswith("job-"):
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Thread)
    ask(engine)
    until(lambda: line.sent)
    (reply,) = line.sent
    assert isinstance(reply, m.Failure)
    assert (reply.reason, reply.id) == ("internal", 1)
    assert "can't start new thread" in reply.message


def test_an_engine_whose_server_died_ends(engine, line):
    retired = threading.Event()
    engine.retire = retired.set
    line.living = False
    engine.nudge()  # as the server does when it ends
    assert retired.wait(5)


@pytest.mark.parametrize("request_", [m.StatusRequest(id=7), m.ListRequest(id=7)])
@pytest.mark.parametrize("trouble", [StoreError("The folder /h can't be listed."), OSError("no such device")])
def test_who_asks_for_a_report_that_cant_be_made_hears_why(engine, line, monkeypatch, request_, trouble):
    def totals(*_given):
        raise trouble

    monkeypatch.setattr(engine.overview, "_store", SimpleNamespace(totals=totals, stamped=totals))
    engine.handle(PEER, request_)
    until(lambda: line.sent)
    (reply,) = line.sent
    assert isinstance(reply, m.Failure)
    assert reply.id == 7
    assert str(trouble) in reply.message


class TestSlowLookUps:
    @pytest.fixture
    def gate(self):
        gate = threading.Event()
        yield gate
        gate.set()

    @pytest.fixture
    def look_up(self, gate):
        def wait(_request):
            gate.wait(20)
            return LookUp(IDENTITY, Missing("absent", "nothing"))

        return wait

    def test_a_reminder_that_is_answered_from_memory_ends_the_wait(self, engine, line, gate, monkeypatch):
        ask(engine)
        until(lambda: engine._ledger.asking)
        known = m.Result(id=1, path="/lib.so", key="k" * 64)
        monkeypatch.setattr(engine._requests.answers, "recall", lambda *_asked: known)
        assert engine.handle(PEER, m.JitRequest(id=1, config=b"{}", device="cpu", python="python")) is known
        until(lambda: not engine.busy())
        gate.set()
        engine._requests._lookups.shutdown(wait=True)
        handled = threading.Event()
        engine.in_turn(handled.set)
        assert handled.wait(10)
        assert line.sent == []

    def test_who_is_being_looked_up_is_told_when_the_daemon_ends_now(self, engine, line, gate):
        ask(engine)
        engine.drain(now=True)
        until(lambda: line.sent)
        (reply,) = line.sent
        assert isinstance(reply, m.Failure)
        assert reply.kind == "draining"
        gate.set()
